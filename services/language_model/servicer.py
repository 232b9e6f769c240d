"""The gRPC side of the language model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, nullcontext
from dataclasses import replace
from typing import Any

import torch

from lyra.v1 import adapters_pb2_grpc, common_pb2, language_model_pb2, language_model_pb2_grpc
from model_core.checkpoints.peft_adapters import CONFIG_FILE, read_adapter
from model_core.engine.engine import EngineConfig
from model_core.engine.language_model import LanguageModel
from model_core.engine.logprobs import TokenLogprob
from model_core.engine.request import BATCH, INTERACTIVE, Delta, Finish, GenerationOptions
from model_core.engine.warm_up import warm_up
from model_core.presets import build_language_model
from services.language_model import engine_metrics
from services.language_model.engine_thread import EngineThread
from services.language_model.prompt_assembler import PromptAssembler
from services.language_model.settings import LanguageModelSettings
from services.shared.rpc import model_service, sampling_codec, tensors
from services.shared.rpc.grpc_types import Context
from services.shared.rpc.interceptors import tenant_of
from services.shared.rpc.lora_registry import FULL_NAME, AdapterHost, AdaptersServicer, AdapterUsage
from services.shared.rpc.server import ServiceDefinition
from services.shared.rpc.uploads import megabytes
from services.shared.service_errors import InvalidInput

_CPU_CACHE_BYTES = 512 * 2**20
_GPU_CACHE_SHARE = 0.8

_REASONS = {"stop": language_model_pb2.FINISH_REASON_STOP, "length": language_model_pb2.FINISH_REASON_LENGTH}


class LanguageModelServicer(language_model_pb2_grpc.LanguageModelServicer):
    """Reads a prompt, hands it to the engine, streams the answer; a cancelled call stops the generation at once."""

    def __init__(self, model: LanguageModel, settings: LanguageModelSettings) -> None:
        self._model = model
        self._settings = settings
        self._usage = AdapterUsage()
        self._thread = EngineThread(model.engine, engine_metrics.reporter(model.engine))
        self.adapters = AdaptersServicer(
            AdapterHost(
                resident=lambda: model.adapters,
                load=lambda name, folder: model.load_adapter(name, read_adapter(model.decoder, folder)),
                unload=model.unload_adapter,
                files=(CONFIG_FILE,),
            ),
            folder=settings.adapters_folder,
            thread=self._thread,
            exclusive=self._usage.exclusive,
        )

    async def Generate(
        self, request_iterator: AsyncIterator[language_model_pb2.GenerateRequest], context: Context
    ) -> AsyncIterator[language_model_pb2.GenerateResponse]:
        """Answers a prompt."""
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidInput("header", "the first message must carry the header")
        options = _to_options(first.header, first.header.tenant or tenant_of(context))
        self._model.check(options)
        reader = PromptAssembler(
            width=self._model.width,
            context_tokens=self._model.context_tokens,
            max_text_bytes=self._settings.max_prompt_text_bytes,
        )
        messages = await reader.read(request_iterator)
        if not options.adapter and reader.adapter in self._model.adapters:
            options = replace(options, adapter=reader.adapter)
        sequence = await asyncio.to_thread(self._model.prepare, messages, options)
        async with self._usage.hold(sequence.adapter) if sequence.adapter else nullcontext():
            self._model.check(options)  # the adapter may have gone meanwhile
            async with aclosing(self._thread.generate(sequence)) as events:
                async for event in events:
                    yield _to_response(event)

    async def CountTokens(
        self, request: language_model_pb2.CountTokensRequest, context: Context
    ) -> language_model_pb2.CountTokensResponse:
        """Counts the tokens of a text."""
        limit = self._settings.max_prompt_text_bytes
        if len(request.text.encode()) > limit:
            raise InvalidInput("text", f"the text is over the limit of {megabytes(limit)}")
        return language_model_pb2.CountTokensResponse(tokens=self._model.count_tokens(request.text))

    async def Describe(
        self, request: language_model_pb2.LanguageModelDescribeRequest, context: Context
    ) -> language_model_pb2.LanguageModelDescribeResponse:
        """Describes the model that this service runs."""
        model = common_pb2.ModelDescription(
            preset=self._settings.preset,
            model=self._model.model,
            token_width=self._model.width,
            adapters=self._model.adapters,
        )
        return language_model_pb2.LanguageModelDescribeResponse(
            model=model,
            context_tokens=self._model.context_tokens,
            max_blocks=self._model.max_blocks,
            keep_rate=self._model.extraction.keep_rate,
            blocks=self._model.extraction.blocks,
            window_tokens=self._model.window_tokens,
        )

    def shut_down(self) -> None:
        """Stops the model's thread."""
        self._thread.shut_down()


def _to_options(header: language_model_pb2.GenerateHeader, tenant: str) -> GenerationOptions:
    return GenerationOptions(
        sampling=sampling_codec.from_header(header),
        adapter=header.adapter,
        # 0.7 is a little less in the wire's 32 bits, which could drop one token more.
        keep_rate=round(header.keep_rate, 6) if header.HasField("keep_rate") else None,
        blocks=header.blocks if header.HasField("blocks") else None,
        hidden_states=header.hidden_states,
        tenant=tenant,
        priority=BATCH if header.priority == language_model_pb2.PRIORITY_BATCH else INTERACTIVE,
    )


def _to_response(event: Delta | Finish) -> language_model_pb2.GenerateResponse:
    if isinstance(event, Delta):
        delta = language_model_pb2.TextDelta(text=event.text, tokens=event.tokens)
        delta.logprobs.extend(map(_to_logprob, event.logprobs))
        if event.hidden_states is not None:
            delta.hidden_states.CopyFrom(tensors.to_message(event.hidden_states.float().cpu().numpy()))
        return language_model_pb2.GenerateResponse(text_delta=delta)
    usage = language_model_pb2.Usage(
        prompt_tokens=event.usage.prompt_tokens,
        speech_tokens=event.usage.speech_tokens,
        vision_tokens=event.usage.vision_tokens,
        completion_tokens=event.usage.completion_tokens,
        adapter=event.usage.adapter,
        context_tokens=event.usage.context_tokens,
        cached_tokens=event.usage.cached_tokens,
    )
    finish = language_model_pb2.GenerateFinish(reason=_REASONS[event.reason], usage=usage)
    return language_model_pb2.GenerateResponse(finish=finish)


def _to_logprob(logprob: TokenLogprob) -> language_model_pb2.TokenLogprob:
    return language_model_pb2.TokenLogprob(
        token=logprob.token,
        token_bytes=logprob.token_bytes,
        logprob=logprob.logprob,
        top_logprobs=map(_to_logprob, logprob.top_logprobs),
    )


def _default_cache_bytes(model: LanguageModel) -> int:
    device = model.decoder.embed_tokens.weight.device
    if device.type != "cuda":
        config, itemsize = model.decoder.config, model.decoder.embed_tokens.weight.itemsize
        position = 2 * config.layers * config.key_value_heads * config.head_width * itemsize
        return max(_CPU_CACHE_BYTES, model.context_tokens * position)
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * _GPU_CACHE_SHARE)


def _build(settings: LanguageModelSettings) -> LanguageModelServicer:
    model = build_language_model(settings.preset, settings.home, checkpoint=settings.checkpoint, device=settings.device)
    dtype = str(model.decoder.embed_tokens.weight.dtype).removeprefix("torch.")
    precision = model.engine_config.precision
    if settings.quantization != "auto":
        precision = "float" if settings.quantization == "none" else settings.quantization
    model_service.log_number_formats(decoder=dtype, layers=dtype if precision == "float" else precision)
    model.engine_config = EngineConfig(
        cache_bytes=settings.cache_mib * 2**20 or _default_cache_bytes(model),
        cache_eight_bits=settings.cache_dtype == "int8",
        prefix_cache_bytes=settings.prefix_cache_mib * 2**20,
        max_rows=settings.max_running,
        max_waiting=settings.max_waiting,
        max_step_tokens=settings.max_step_tokens,
        max_slowdown=settings.max_step_slowdown,
        precision=precision,
        float_weights="packed",
    )
    warm_up(model)
    servicer = LanguageModelServicer(model, settings)
    servicer.adapters.preload(settings.adapters_at_start, model_service.translate)
    return servicer


def _register(servicer: LanguageModelServicer, server: Any) -> None:
    language_model_pb2_grpc.add_LanguageModelServicer_to_server(servicer, server)
    adapters_pb2_grpc.add_AdaptersServicer_to_server(servicer.adapters, server)


DEFINITION: ServiceDefinition[LanguageModelSettings] = ServiceDefinition(
    name="language model",
    full_names=("lyra.v1.LanguageModel", FULL_NAME),
    build=_build,
    register=_register,
    translate=model_service.translate,
)
