"""Florence: from pictures to a Florence-2-style data set and a promoted vision model, again and again."""
