"""Images, folder layouts, finding and opening data sets, and the synthetic ones. Imports nothing above it."""
