"""The language model: what training, checkpoints and serving share.

`decoder` with `attention` and `kv_cache`, `lora`, the context `extractor`; conversations (`messages`), the chat templates that
render them (`chat_template`), and the splicing of text, speech and vision tokens into one prompt (`splicing`).
"""
