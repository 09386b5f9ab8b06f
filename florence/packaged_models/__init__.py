"""Small models whose weights come in pip packages: an image classifier, a sentence encoder, a parser."""
