"""The command line ``astro-unetloc``."""
