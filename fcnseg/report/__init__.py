"""What scores look like: tables for papers and spreadsheets, and pages for people."""
