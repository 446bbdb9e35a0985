"""Configuration files to frozen values; every error with file, line and column."""
