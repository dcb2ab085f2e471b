"""Small language models next to the data path: the class of a window as JSON, and explanations of incidents."""
