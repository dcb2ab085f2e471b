"""Models as data files: folders with a card that names each file's hash, checked before anything is read."""
