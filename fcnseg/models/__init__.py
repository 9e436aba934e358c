"""The network: trunks, the ladder on top of them, and the file they are kept in.

It knows tensors and weights; nothing of folders, videos or terminals.
"""
