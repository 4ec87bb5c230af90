"""``python -m astro_unetloc`` is the command ``astro-unetloc``."""

from astro_unetloc.cli.main import main

main()
