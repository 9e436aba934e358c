"""What is done to fcnseg on purpose: damaged files of every kind, and bad days for its commands.

`benchmarks/faults.py` does it for hours, the tests here for seconds.
"""
