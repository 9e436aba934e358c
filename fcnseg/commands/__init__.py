"""One file a command: options in, a result out."""
