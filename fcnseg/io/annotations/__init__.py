"""Labels as what annotation tools read: polygons, run lengths and the tools' files."""
