"""The nano base: a tiny vision-language model trained causally on the samples until it truly looks at its pictures."""
