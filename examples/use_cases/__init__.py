"""What the two use cases of the DistDD paper share."""
