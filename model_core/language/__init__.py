"""The language model: what training, checkpoints and serving share.

`decoder`, with its `attention`, `kv_cache` and `lora`, and the context `extractor`; conversations (`messages`), the
templates that render them (`chat_template`), and the splicing of text, speech and vision tokens into one prompt
(`splicing`).
"""
