"""Models as data files: folders with a card that lists the hash of each file, checked before a file is used."""
