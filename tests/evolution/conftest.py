"""Small searches that the tests of all rooms share."""
