"""Several fine-tuned models of one base, judged by the same measures on the same items, and which of them to take.

texts          answers beside references: exact match, token F1, ROUGE-L, BLEU
candidates     what is judged: the base, and each tuned model with what its training cost
judging        the measures of one model, and the report of all
merges         LoRA written into the weights, and what that changes
recommending   the choice that follows from the table and the user's limits
"""
