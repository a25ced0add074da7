"""Tiny models, rows and a trainer for the tests of Hugging Face's Trainer; a step as a program."""

import sys

import torch
import transformers

from mxmclr_plugin.integrations.hugging_face import CaptionCollator, MultifoldHybridTrainerLoss

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
IMAGE = {"image_size": 16, "patch_size": 8, **SMALL}
TOKENS = {"vocab_size": 32, "max_position_embeddings": 8, **SMALL}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def tiny_clip():
    config = transformers.CLIPConfig(
        text_config=TOKENS | ENDS, vision_config=IMAGE, projection_dim=8
    )
    return transformers.CLIPModel(config)


def tiny_siglip():
    text = TOKENS | ENDS | {"projection_size": 16}
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=IMAGE)
    )


def tiny_dual_encoder():
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ViTConfig(**IMAGE), transformers.BertConfig(**TOKENS), projection_dim=8
    )
    return transformers.VisionTextDualEncoderModel(config)


MODELS = {"clip": tiny_clip, "siglip": tiny_siglip, "dual encoder": tiny_dual_encoder}


def processor(images, text, **options):
    assert options == {"return_tensors": "pt", "padding": True}
    return {
        "pixel_values": torch.stack(images),
        "input_ids": torch.tensor([[3 + int(caption), 4, 2] for caption in text]),
    }


def rows(n=8, captions=(3, 2, 4), ids=None):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randn(3, 16, 16, generator=generator),
            "captions": [str((5 * k + c) % 20) for c in range(captions[k % len(captions)])],
            "id": k if ids is None else ids[k],
        }
        for k in range(n)
    ]


def trainer_of(model, folder, data, loss, **options):
    collator = CaptionCollator(processor, captions=4)
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(
            output_dir=folder,
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0,
            lr_scheduler_type="constant",
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=True,
            **options,
        ),
        data_collator=collator,
        train_dataset=data,
        compute_loss_func=loss,
    )


def train(model, folder, data, loss, **options):
    trainer_of(model, folder, data, loss, **options).train()
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def step_of_all_rows(folder, processes):
    """One step with all rows, whatever the number of processes."""
    torch.manual_seed(0)
    model = tiny_clip()
    return train(
        model,
        folder,
        rows(n=8, captions=(3,), ids=[0, 1, 2, 3, 0, 1, 4, 5]),
        MultifoldHybridTrainerLoss(model, gather_distributed=processes > 1),
        per_device_train_batch_size=8 // processes,
    )


if __name__ == "__main__":
    torch.save(step_of_all_rows(sys.argv[1], 2), f"{sys.argv[1]}/{torch.distributed.get_rank()}.pt")
