"""Small language models beside the data path: the class of a window as JSON, and incidents explained in words."""
