"""Finding faces in a frame, cropping them to the canonical square and pasting the results back."""
