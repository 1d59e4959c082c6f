"""Search for the numbers of a recipe, by text that the merge is to predict."""
