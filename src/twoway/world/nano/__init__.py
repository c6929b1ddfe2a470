"""The base model of the small world: a tiny vision-language model trained causally until it truly looks at its pictures."""
