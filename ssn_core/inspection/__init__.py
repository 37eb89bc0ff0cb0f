"""Own images: training on a folder, the threshold, prediction, evaluation. Imports runs and what lies below it."""
