"""`finetune`: contrastive training on pairs."""
