"""Raw data sets: where their files are and how each file becomes interactions and items."""
