"""Reading and writing: model files, bundles, and what a file may hold."""
