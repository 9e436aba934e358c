"""Items of --show-what that look into the network, which needs torch."""
