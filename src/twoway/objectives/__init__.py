"""What a stage asks of the model: one idea, one file; tensors in, named losses out. No trainer, tokenizer or file is known here.

Shapes are written as suffixes: B rows, L positions, D width, V vocabulary, N chosen positions, P values of a position's patches.
"""
