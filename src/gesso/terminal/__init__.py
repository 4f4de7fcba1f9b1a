"""What a person sees: the live canvas, progress bars, tables. The only home of `rich`."""
