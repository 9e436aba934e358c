"""A file for each family of backbones; fcnseg.models.BACKBONES lists them."""
