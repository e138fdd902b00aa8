// Calls of Node's clients: `node in_node.mjs URL PICTURE.png` prints one line of JSON for each, {name, value or error}.
import fs from "node:fs";
import OpenAI, { toFile } from "openai";
import Replicate from "replicate";
import { Client, handle_file } from "@gradio/client";
import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk";
import { generateImage } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createReplicate } from "@ai-sdk/replicate";

const [, , url, file] = process.argv;
const png = fs.readFileSync(file);
const prompt = "a red apple";
const version = "7".repeat(64);

async function call(name, work) {
  let told;
  try {
    told = { name, value: await work() };
  } catch (error) {
    told = { name, error: `${error?.name}: ${error?.message}`.slice(0, 500) };
  }
  console.log(JSON.stringify(told));
}

async function collected(stream, pick) {
  const found = [];
  for await (const each of stream) found.push(pick(each));
  return found;
}

async function isPicture(output) {
  const address = Array.isArray(output) ? output[0] : output;
  const data = Buffer.from(await (await fetch(String(address))).arrayBuffer());
  return data.subarray(1, 4).toString() === "PNG";
}

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
await call("openai generate", async () => isPicture((await openai.images.generate({ prompt })).data[0].url));
await call("openai gpt-image-1", async () => {
  const wish = { prompt, model: "gpt-image-1", quality: "high", size: "1024x1024", background: "transparent" };
  return (await openai.images.generate(wish)).data.length;
});
await call("openai stream", async () => {
  const wish = { prompt, stream: true, partial_images: 1, size: "256x256" };
  return (await collected(await openai.images.generate(wish), (each) => each.type)).at(-1);
});
await call("openai edit", async () => {
  const image = [await toFile(png, "a.png", { type: "image/png" }), await toFile(png, "b.png", { type: "image/png" })];
  return (await openai.images.edit({ image, prompt })).data.length;
});
await call("openai models", async () => (await openai.models.list()).data[0].id);

const ai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const compatible = createOpenAICompatible({ name: "studio", baseURL: `${url}/v1`, apiKey: "none" });
await call("ai openai", async () => {
  const providerOptions = { openai: { quality: "high" } };
  return (await generateImage({ model: ai.image("gpt-image-1"), prompt, size: "1024x1024", providerOptions })).images.length;
});
await call("ai compatible", async () => {
  return (await generateImage({ model: compatible.imageModel("starter"), prompt, n: 2, size: "256x256" })).images.length;
});

for (const base of ["/v1", "/replicate/v1"]) {
  const models = createReplicate({ baseURL: url + base, apiToken: "none" });
  const replicate = new Replicate({ auth: "none", baseUrl: url + base });
  const named = (name) => `${name} at ${base}`;
  await call(named("ai replicate"), async () => {
    return (await generateImage({ model: models.image("local/starter"), prompt, size: "256x256" })).images.length;
  });
  await call(named("ai replicate version"), async () => {
    return (await generateImage({ model: models.image(`local/starter:${version}`), prompt })).images.length;
  });
  await call(named("replicate run"), async () => isPicture(await replicate.run("local/starter", { input: { prompt } })));
  await call(named("replicate poll"), async () => {
    const wait = { mode: "poll", interval: 100 };
    return isPicture(await replicate.run(`any/model:${version}`, { input: { prompt }, wait }));
  });
  await call(named("replicate picture"), async () => {
    return isPicture(await replicate.run("local/starter", { input: { prompt, image: png, prompt_strength: 0.5 } }));
  });
  await call(named("replicate files"), async () => {
    const kept = await replicate.files.create(new Blob([png], { type: "image/png" }));
    const listed = (await replicate.files.list()).results.map((each) => each.id);
    return [(await replicate.files.get(kept.id)).id === kept.id, listed.includes(kept.id), await replicate.files.delete(kept.id)];
  });
  await call(named("replicate stream"), async () => {
    return (await collected(replicate.stream("local/starter", { input: { prompt } }), (each) => each.event)).slice(-2);
  });
  await call(named("replicate lists"), async () => {
    const lists = await Promise.all([
      replicate.models.list(), replicate.models.search("start"), replicate.collections.list(), replicate.trainings.list(),
      replicate.deployments.list(), replicate.hardware.list(), replicate.predictions.list(),
    ]);
    return lists.map((each) => (each.results ?? each).length > 0);
  });
  await call(named("replicate cancel"), async () => {
    const made = await replicate.predictions.create({ version, input: { prompt: "patience [slow:0.4]" } });
    await replicate.predictions.cancel(made.id);
    return (await replicate.wait(made)).status;
  });
}

await call("gradio", async () => {
  const client = await Client.connect(url);
  const byPlace = (await client.predict("/submit", [prompt])).data[0];
  const byName = (await client.predict("/submit", { prompt, count: 2 })).data[0];
  const ended = (await client.predict("/wait", [byName.job_ids[0], 60])).data[0];
  const source = (await client.predict("/add_source", [handle_file(file)])).data[0];
  const watched = await collected(client.submit("/watch", [byPlace.job_ids[0]]), (each) => each.data?.[0]?.event);
  return [byPlace.job_ids.length, byName.job_ids.length, ended.state, source.width, watched.filter(Boolean).at(-1)];
});

await call("comfyui", async () => {
  const api = await new ComfyApi(url, "comfyui-sdk").init();
  const graph = {
    3: { class_type: "KSampler", inputs: {
      seed: 1, steps: 4, cfg: 5, sampler_name: "euler", scheduler: "normal", denoise: 1,
      model: ["4", 0], positive: ["6", 0], negative: ["7", 0], latent_image: ["5", 0],
    } },
    4: { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: (await api.getCheckpoints())[0] } },
    5: { class_type: "EmptyLatentImage", inputs: { width: 256, height: 256, batch_size: 1 } },
    6: { class_type: "CLIPTextEncode", inputs: { text: prompt, clip: ["4", 1] } },
    7: { class_type: "CLIPTextEncode", inputs: { text: "", clip: ["4", 1] } },
    8: { class_type: "VAEDecode", inputs: { samples: ["3", 0], vae: ["4", 2] } },
    9: { class_type: "SaveImage", inputs: { filename_prefix: "sdk", images: ["8", 0] } },
  };
  const built = new PromptBuilder(graph, ["seed"], ["images"])
    .setInputNode("seed", "3.inputs.seed").setOutputNode("images", "9").input("seed", 7);
  const made = await new Promise((done, failed) => new CallWrapper(api, built).onFinished(done).onFailed(failed).run());
  const picture = await api.getImage(made.images.images[0]);
  await Promise.all([api.getQueue(), api.getHistories(), api.getSystemStats(), api.getSamplerInfo(), api.getLoras(), api.interrupt()]);
  return [picture.size > 1000, Boolean(await api.uploadImage(png, "a.png"))];
});
process.exit(0);
