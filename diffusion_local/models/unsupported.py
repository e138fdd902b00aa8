"""Signs of unsupported models (video, audio, 3D) and of add-ons, so that messages can name them."""

from dataclasses import dataclass

from diffusion_local.families.sign import Sign
from diffusion_local.messages import message
from diffusion_local.models.parts import sign

VIDEO, AUDIO, SOLID, PICTURE = "video", "audio", "3D", "picture"
FIVE = (None,) * 5
WAN = ("head.modulation", "patch_embedding", "blocks.0.self_attn")


@dataclass(frozen=True, slots=True)
class Foreign:
    title: str
    makes: str
    signs: tuple[Sign, ...]


FOREIGN_MODELS = (
    Foreign("Wan", VIDEO, (sign(*WAN), sign("patch_embedding", "condition_embedder.text_embedder", "blocks.0.attn1"))),
    Foreign("Wan 2.1 1.3B", VIDEO, (Sign(has=WAN, shapes={"patch_embedding.weight": (1536, 16, 1, 2, 2)}),)),
    Foreign("Wan 2.2 5B", VIDEO, (Sign(has=WAN, shapes={"patch_embedding.weight": (3072, 48, 1, 2, 2)}),)),
    Foreign("Wan 14B", VIDEO, (Sign(has=WAN, shapes={"patch_embedding.weight": (5120, None, 1, 2, 2)}),)),
    Foreign("Wan VACE", VIDEO, (
        sign(*WAN, "vace_blocks.0", "vace_patch_embedding", "head"), sign("vace_blocks.0", "vace_patch_embedding"),
    )),
    Foreign("LTX-Video's upscaler of latents", VIDEO, (
        Sign(has=("initial_conv", "res_blocks.0.conv1", "upsampler.0"), shapes={"initial_conv.weight": FIVE}),
    )),
    Foreign("Wan Animate", VIDEO, (sign(*WAN, "face_adapter", "pose_patch_embedding", "head"),)),
    Foreign("LTX-Video", VIDEO, (
        sign("patchify_proj", "adaln_single", "transformer_blocks.0.attn2"),
        Sign(has=("proj_in", "time_embed.emb", "caption_projection", "transformer_blocks.0.attn2"),
            lacks=("patch_embed",)),
    )),
    Foreign("LTX-2", VIDEO, (
        sign("patchify_proj", "adaln_single", "audio_adaln_single", "transformer_blocks.0"),
        sign("audio_proj_in", "audio_time_embed", "transformer_blocks.0", "proj_in", "time_embed",
            "caption_projection"),
    )),
    Foreign("HunyuanVideo", VIDEO, (
        Sign(has=("double_blocks.0", "single_blocks.0", "txt_in.individual_token_refiner"),
            shapes={"img_in.proj.weight": FIVE}),
        Sign(has=("double_blocks.0", "single_blocks.0", "txt_in.individual_token_refiner"), lacks=("img_in.proj",)),
        Sign(has=("transformer_blocks.0", "context_embedder.token_refiner"), shapes={"x_embedder.proj.weight": FIVE}),
    )),
    Foreign("Stable Video Diffusion", VIDEO, (sign("down_blocks.0.resnets.0.spatial_res_block"),)),
    Foreign("Sana Video", VIDEO, (sign("patch_embedding", "caption_norm", "transformer_blocks.0.ff.conv_inverted"),)),
    Foreign("HunyuanVideo 1.5", VIDEO, (
        sign("double_blocks.0", "txt_in.individual_token_refiner", "cond_type_embedding", "vision_in", "byt5_in",
            "img_in"),
    )),
    Foreign("HunyuanVideo 1.5", VIDEO, (
        sign("transformer_blocks.0", "context_embedder.token_refiner", "context_embedder_2", "image_embedder",
            "cond_type_embed"),
    )),
    Foreign("Mochi", VIDEO, (sign("blocks.0.attn.qkv_x"), sign("t5_yproj", "blocks.0"), sign("time_embed.pooler",
        "pos_frequencies"))),
    Foreign("CogVideoX", VIDEO, (
        sign("patch_embed.text_proj", "blocks.0.norm1.linear"),
        Sign(has=("patch_embed.text_proj", "transformer_blocks.0.norm1.linear"), lacks=("time_condition_embed",)),
        sign("transformer.layers.0.attention.query_key_value", "mixins"),
    )),
    Foreign("Cosmos 1", VIDEO, (sign("blocks.block0.blocks.0"), sign("learnable_pos_embed", "transformer_blocks.0"))),
    Foreign("Kandinsky 5", VIDEO, (sign("visual_embeddings.in_layer", "text_transformer_blocks.0"),)),
    Foreign("Kandinsky 5 Image", PICTURE, (
        sign("text_transformer_blocks.0", visual_embeddings__in_layer=(2560, None)),
    )),
    Foreign("Allegro", VIDEO, (Sign(has=("pos_embed.proj", "transformer_blocks.0.scale_shift_table",
        "transformer_blocks.0.attn2"),
        shapes={"pos_embed.proj.weight": (2304, 4, 2, 2)}),)),
    Foreign("SeedVR2", VIDEO, (sign("blocks.0.attn.proj_qkv.vid"), sign("blocks.0.mlp.vid"),
        sign("blocks.31.mlp.all"))),
    Foreign("MiniMax H3", VIDEO, (sign("video_patch_proj", "audio_patch_proj"),
        sign("token_refiner.blocks.0.attn.qkv_proj"))),
    Foreign("Stable Audio", AUDIO, (sign("transformer.rotary_pos_emb"), sign("preprocess_conv", "postprocess_conv",
        "transformer.layers.0"))),
    Foreign("ACE-Step", AUDIO, (sign("genre_embedder", "lyric_embs"), sign("genre_embedder"), sign("lyric_encoder"),

        sign("layers.0.scale_shift_table", "layers.0.self_attn_norm", "layers.0.cross_attn_norm"))),
    Foreign("Zero123, which turns objects", SOLID, (sign("cc_projection"),)),
    Foreign("Hunyuan3D", SOLID, (sign("latent_in", "cond_in"), sign("t_embedder.mlp.2", "blocks.0.attn1.k_norm",
        "blocks.0.attn2"))),
    Foreign("MMAudio", AUDIO, (sign("audio_input_proj", "clip_input_proj", "joint_blocks.0"),)),
    Foreign("a part for camera movement (CameraCtrl)", VIDEO, (sign("pose_encoder", "attention_processor"),)),
    Foreign("a part for speaking persons (InfiniteTalk, MultiTalk)", VIDEO, (
        sign("audio_proj", "blocks.0.audio_cross_attn"),
    )),
    Foreign("TRELLIS", SOLID, (
        sign("input_layer", "blocks.0.self_attn.to_qkv", "t_embedder.mlp.0"), sign("img2shape"), sign("shape2txt"))),
    Foreign("OmniGen 2", PICTURE, (
        sign("ref_image_refiner.0", "time_caption_embed.caption_embedder.1", "noise_refiner.0",
            "ref_image_patch_embedder"),
    )),
    Foreign("OmniGen", PICTURE, (sign("llm.layers.0", "x_embedder", "time_token"),)),
    Foreign("Anima", PICTURE, (
        sign("llm_adapter", "blocks.0.self_attn.q_proj", "x_embedder.proj.1", "blocks.0.self_attn"),
        sign("llm_adapter", "blocks.0.self_attn.q_proj", "blocks.0.mlp.layer1", "x_embedder.proj.1", "blocks.0"),
    )),
    Foreign("NewBie", PICTURE, (sign("clip_text_pooled_proj", "cap_embedder.1", "noise_refiner.0",
        "layers.0.adaLN_modulation.1", "x_embedder"),)),
    Foreign("HiDream O1", PICTURE, (sign("t_embedder1.mlp.0", "x_embedder.proj1"),)),
    Foreign("GLM-Image", PICTURE, (sign("glyph_projector", "prior_token_embedding", "transformer_blocks.0"),)),
    Foreign("FLUX.3", PICTURE, (sign("early_stream_modulations", "single_stream_modulations"),)),
    Foreign("Ideogram 4", PICTURE, (sign("llm_cond_proj", "embed_image_indicator", "layers.0.attention"),)),
    Foreign("PRX", PICTURE, (sign("blocks.0.attention.img_qkv_proj", "blocks.0.attention.txt_kv_proj"),)),
    Foreign("Bria", PICTURE, (
        Sign(has=("single_transformer_blocks.0", "transformer_blocks.0", "time_embed", "caption_projection")),
        Sign(has=("single_transformer_blocks.0", "transformer_blocks.0", "time_embed"), lacks=("time_text_embed",),
            shapes={"context_embedder.weight": (None, 4096)}),
    )),
    Foreign("FLUX.1 Redux", PICTURE, (sign("redux_down", "redux_up"), sign("redux_up"))),
    Foreign("Step1X-Edit", PICTURE, (
        sign("connector", "double_blocks.0", "single_blocks.0", "img_in", "vector_in", "txt_in", "time_in",
            "final_layer"),
    )),
    Foreign("Flex.2", PICTURE, (
        Sign(has=("double_blocks.0.img_attn", "single_blocks.0", "vector_in", "txt_in", "guidance_in", "time_in"),
             shapes={"img_in.weight": (3072, 196)}),
    )),
    Foreign("Qwen-Image Layered", PICTURE, (
        sign("time_text_embed.addition_t_embedding", "txt_norm", "img_in", "txt_in", "proj_out", "norm_out",
            "transformer_blocks.0.img_mod"),
    )),
    Foreign("BAGEL", PICTURE, (sign("vae2llm", "llm2vae"),)),
    Foreign("HunyuanImage 3", PICTURE, (sign("patch_embed.model.0", "timestep_emb.mlp.0"),)),
    Foreign("Janus", PICTURE, (sign("gen_vision_model.quantize"), sign("vqmodel.quantize", "generation_head"))),
    Foreign("DeepFloyd IF", PICTURE, (sign("encoder_hid_proj", "add_embedding.norm1", "down_blocks.0.resnets.0"),)),
    Foreign("Kandinsky 2", PICTURE, (
        sign("encoder_hid_proj.image_embeds", "down_blocks.0.resnets.0"),
        sign("add_embedding.image_proj", "down_blocks.0.resnets.0"),
    )),
    Foreign("CogView3-Plus", PICTURE, (
        Sign(has=("patch_embed.text_proj", "transformer_blocks.0.norm1.linear", "time_condition_embed"),
            shapes={"patch_embed.text_proj.weight": (2560, 4096)}),
    )),
    Foreign("Würstchen", PICTURE, (
        sign("cond_mapper.0", "projection", "blocks.0.depthwise"), sign("cond_mapper.0", "projection",
            "blocks.0.channelwise"),
        sign("effnet_mappers.0", "seq_proj", "clip_mapper"),
    )),
    Foreign("the x2 upscaler of latents of SD 2", PICTURE, (sign("down_blocks.0.resnets.0.norm1.linear", "conv_in"),)),
    Foreign("PixelDiT", PICTURE, (sign("core.pixel_embedder"),)),
)  # fmt: skip

#: Purpose of UNets with additional input channels, by architecture and number of channels.
UNET_PURPOSES = {
    ("sd2", 5): message("file_depth"),
    ("sd2", 7): message("file_x4"),
    ("sd2", 8): message("file_not_yet_that", title="a model that estimates depth or normals (Marigold, Lotus)"),
    ("sd1", 12): message("file_not_yet_that", title="IC-Light, which lights a picture anew"),
}


@dataclass(frozen=True, slots=True)
class Attachment:
    """An add-on for a model. ``title`` completes "It is ..."."""

    id: str
    title: str
    signs: tuple[Sign, ...]


#: Checked first, because their tensor names contain those of models.
ATTACHMENTS = (
    Attachment("ip_adapter", "an IP-Adapter", (
        sign("ip_adapter", "image_proj"), sign("ip_adapter_proj_model"), sign("ip_adapter.1.to_k_ip"),
        sign("double_blocks.0.processor.ip_adapter_double_stream_k_proj"), sign("ip_adapter.0.to_k_ip"),
        sign("image_proj_model", "ip_adapter"),
    )),
    Attachment("id_adapter", "an identity adapter (PuLID, PhotoMaker)", (
        sign("pulid_encoder"), sign("pulid_ca"), sign("id_adapter"), sign("id_encoder", "lora_weights"),
            sign("pulid_ca.0"),
    )),
    Attachment("supir", "SUPIR, which restores pictures", (sign("project_modules.0"),)),
    Attachment("brushnet", "a BrushNet", (sign("brushnet_down_blocks"),)),
    Attachment("transparency", "a part of LayerDiffuse, which makes transparent pictures", (sign("latent_conv_in"),)),
    Attachment("ella", "ELLA, which reads prompts with a language model", (
        sign("connector.latents", "connector.time_embedding"),
    )),
    Attachment("inpainter", "a network that fills holes (LaMa)", (
        sign("model.1.ffc"), sign("model.model.1.ffc"), sign("generator.model.1.ffc"),
        sign("synthesis.first_stage", "mapping"),
    )),
    Attachment("controlnet", "a ControlNet", (
        sign("control_blocks.0.after_proj"), sign("control_img_in"), sign("control_transformer_blocks.0"),
        sign("control_model.input_blocks.0.0"), sign("control_model.time_embed"), sign("input_hint_block.0",
            "zero_convs.0"),
        sign("controlnet_cond_embedding"), sign("controlnet_x_embedder"), sign("controlnet_blocks.0"),
        sign("controlnet_down_blocks.0"), sign("control_all_x_embedder"), sign("control_layers.0",
            "control_noise_refiner"),
        sign("control_layers.0"), sign("lora_controlnet"), sign("after_proj_list.0", "before_proj"),
        sign("pos_embed_input", "controlnet_blocks"), sign("control_add_embedding"), sign("controlnet"),
        sign("zero_convs.0.0", "middle_block_out"),
    )),
    Attachment("t2i_adapter", "a T2I-Adapter", (
        sign("adapter.body.0"), sign("adapter.conv_in"), sign("body.0.block1", "conv_in"), sign("body.0.in_conv",
            "conv_in"),
        sign("body.0.resnets.0.block1", "conv_in"), sign("style_embedding", "transformer_layes.0"),
    )),
    Attachment("motion_module", "a motion module for video (AnimateDiff)", (
        sign("down_blocks.0.motion_modules.0"), sign("up_blocks.0.motion_modules.0"),
            sign("mid_block.motion_modules.0"),
        sign("down_blocks.0.temporal_attentions.0"), sign("up_blocks.1.motion_modules.0"),
        sign("module.down_blocks.0.motion_modules.0"),
    )),
    Attachment("gligen", "a GLIGEN adapter", (sign("position_net"), sign("position_net.linears"))),
    Attachment("face_restorer", "a network that restores faces", (
        sign("stylegan_decoder"), sign("quantize.embedding", "fuse_convs_dict"), sign("vqvae.quantize.embedding"),
        sign("quantize.embedding", "decoder.up.5", "encoder.conv_in"),
        sign("generator.style", "ecd0.0", "final_linear"),
    )),
    Attachment("segmenter", "a network that selects objects (Segment Anything)", (
        sign("image_encoder", "mask_decoder"), sign("sam_mask_decoder"), sign("tracker.sam_mask_decoder"),
        sign("clip.vision_model", "decoder.layers.0"), sign("vision_encoder", "mask_decoder"),
        sign("vision_encoder", "geometry_encoder"),
    )),
    Attachment("depth", "a network that estimates depth", (
        sign("depth_head"), sign("scratch.layer1_rn"), sign("core.core.scratch"), sign("neck.fusion_stage"),
        sign("neck.reassemble_stage"), sign("depth_model"), sign("glpn.encoder"), sign("depth_pro.encoder"),
    )),
    Attachment("normals", "a network that estimates the normals of surfaces", (
        sign("encoder.original_model.conv_stem", "decoder.conv2"),
    )),
    Attachment("annotator", "a network that finds lines or poses in pictures", (
        sign("block1.convs.0", "block1.projection"), sign("model0.1", "model4.1"), sign("conv5_5_CPM_L1"),
        sign("conv6_1_CPM"), sign("block15.conv1", "block23.conv3"), sign("init_block", "block1_1.conv1"),
        sign("model.model.1.model.1", "model.model.3"), sign("block0.0.conv", "block1.0.conv"),
        sign("block_1.conv1", "dblock_3", "up_block_1.features"),
    )),
    Attachment("faces", "a network that finds faces or their parts", (
        sign("ClassHead.0", "BboxHead.0"), sign("out_mask_conv", "out_img_conv"),
        sign("cp.resnet.conv1", "ffm.convblk"),
    )),
    Attachment("face_recogniser", "a network that recognises faces", (sign("layer1.0.prelu", "features", "fc"),)),
    Attachment("safety", "a safety checker, which is not used", (sign("concept_embeds", "special_care_embeds"),)),
    Attachment("rating", "a network that rates pictures", (
        Sign(has=("layers.2", "layers.7"), shapes={"layers.0.weight": (1024, 768)}),
    )),
    Attachment("detector", "a network that finds objects (YOLO)", (sign("model.22.cv2"), sign("22.cv2", "0.conv"),
        sign("model.0.conv", "model.9.cv1"), sign("bbox_embed.0.layers.0", "transformer.level_embed"),
        sign("bbox_embed.0.layers.0", "level_embed"), sign("bbox_embed.0.layers.0", "model.level_embed"),
        sign("class_head.dense0", "box_head.dense0"), sign("class_labels_classifier", "bbox_predictor"),
        sign("enc_bbox_head", "encoder_input_proj"))),
    Attachment("speech", "a network that writes down speech (Whisper)", (
        sign("encoder.conv1", "decoder.layers.0.encoder_attn"),
    )),
    Attachment("sound", "a network that reads speech (wav2vec 2)", (
        sign("feature_extractor.conv_layers.0", "feature_projection.projection"),
    )),
    Attachment("audio", "a network for sounds and speech", (
        sign("audio_encoder.quantizer", "decoder.lm_heads"), sign("semantic.layers.0", "coarse_acoustics"),
        sign("text_model", "audio_model.audio_encoder"), sign("quantizer.layers.0.codebook", "decoder.layers.0"),
        sign("quantizer.quantizers.0", "decoder.snake1"), sign("speecht5.encoder"),
        sign("quantizer.acoustic_residual_vector_quantizer"), sign("duration_predictor.conv_pre", "flow.flows.0"),
        sign("conv_pre.weight_v", "ups.0.0"), sign("conv_pre", "ups.0", "resblocks.0", "conv_post"),
        sign("attention_pooler", "audio_acoustic_proj"),
    )),
    Attachment("captioner", "a network that describes pictures (Florence-2, BLIP)", (
        sign("vision_tower.convs.0", "image_projection"), sign("text_decoder.bert"),
        sign("query_tokens", "qformer.encoder"), sign("git.image_encoder"), sign("connector.modality_projection"),
    )),
    Attachment("matting", "a network that cuts out objects (BiRefNet, RMBG, U2-Net)", (
        sign("bb.layers.0", "decoder"), sign("stage1.rebnconvin"),
    )),
    Attachment("frames", "a network that makes frames in between (RIFE)", (sign("block0.conv0", "block1.conv0"),)),
    Attachment("segmentation", "a network that labels the parts of a picture (SegFormer)", (
        sign("segformer", "decode_head"), sign("decode_head.psp_modules"),
        sign("decode_head.conv_seg"), sign("sem_seg_head.predictor"),
    )),
    Attachment("flow", "a network that follows movement between pictures (optical flow)", (
        sign("fnet.conv1", "update_block"),
    )),
    Attachment("classifier", "a network that classifies or tags pictures", (
        sign("layer4.0.conv1", "fc"), sign("features.0", "classifier.0"), sign("Conv2d_1a_3x3", "fc"),
        sign("patch_embed.proj", "blocks.0.attn.qkv", "pos_embed", "head"), sign("vit.embeddings", "classifier"),
        sign("swin.embeddings", "classifier"), sign("convnext.embeddings", "classifier"),
        sign("beit.embeddings", "classifier"),
    )),
    Attachment("training", "the state of an unfinished training", (
        sign("state.0.exp_avg"), sign("0.exp_avg"), sign("optimizer.state.0"), sign("state.0.state1"),
        sign("optimizer_states.0.state"),
    )),
    Attachment("inpaint_head", "a part of Fooocus that fills in pictures", (
        Sign(has=("head",), shapes={"head": (320, 5, 3, 3)}),
    )),
    Attachment("hypernetwork", "a hypernetwork of A1111", (sign("320", "768", "1280"), sign("320.0", "640.0"))),
)  # fmt: skip
