"""A page with the gates of sequences: :func:`gatewise.gates.page.writer.write_page`."""
