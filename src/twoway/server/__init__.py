"""A model behind HTTP: embeddings, search and a page to look at."""
