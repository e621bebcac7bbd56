"""The images that networks learn, and the tasks made of them."""
