"""What runs a recipe: training, the stages of a plan, scores, comparisons with their controls, estimates."""
