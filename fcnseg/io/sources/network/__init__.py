"""What stands at an address: a file of a web server, a stream."""
