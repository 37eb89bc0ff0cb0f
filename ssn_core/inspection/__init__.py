"""Own images: training on a folder, the threshold, prediction, evaluation, a gallery. Imports runs and what lies below."""
