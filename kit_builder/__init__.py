"""How the offline kit was made: artwork, drawings, photographs, training, evaluation."""
