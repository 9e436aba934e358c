"""The command line: parse, call a verb, draw its progress, print its result."""
