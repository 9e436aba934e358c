"""One module per command: options in, a result out."""
