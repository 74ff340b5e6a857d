/**
 * Graphile Worker as its documents measure it: 24 jobs at a time, a local queue of 500, completions in batches.
 * The commands are those of commands.py.
 */
"use strict";

const fs = require("node:fs");
const { makeWorkerUtils, run, Logger } = require("graphile-worker");

const url = process.env.BENCH_URL;
const silent = new Logger(() => () => {});
const WARM_UP = 20;
const RING_WARM_UP = 5;
const PAUSE = 60;
const PATIENCE = 20_000;
const RING_SECONDS = 20;

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function setup() {
  const utils = await makeWorkerUtils({ connectionString: url, logger: silent });
  await utils.migrate();
  await utils.release();
}

async function work() {
  const tally = fs.openSync(process.env.BENCH_TALLY, "a");
  const eight = Buffer.alloc(8);
  const nothing = () => {
    eight.writeBigUInt64LE(process.hrtime.bigint());
    fs.writeSync(tally, eight);
  };
  const runner = await run({
    preset: {
      worker: {
        connectionString: url,
        concurrentJobs: 24,
        maxPoolSize: 25,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        logger: silent,
      },
    },
    taskList: { nothing },
    parsedCronItems: [],
  });
  await runner.promise;
}

async function producing(produce) {
  const utils = await makeWorkerUtils({ connectionString: url, maxPoolSize: 1, logger: silent });
  try {
    return await produce(utils, (number) => utils.addJob("nothing", { number }));
  } finally {
    await utils.release();
  }
}

const rate = (count, before) => count / (Number(process.hrtime.bigint() - before) / 1e9);

const single = (count) =>
  producing(async (_, add) => {
    for (let number = 0; number < WARM_UP; number++) await add(number);
    const before = process.hrtime.bigint();
    for (let number = 0; number < count; number++) await add(number);
    return { rate: rate(count, before) };
  });

const fill = (count) =>
  producing(async (utils) => {
    const before = process.hrtime.bigint();
    await utils.addJobs(Array.from({ length: count }, (_, number) => ({ identifier: "nothing", payload: { number } })));
    return { rate: rate(count, before), bulk: true };
  });

const ring = (count) =>
  producing(async (_, add) => {
    const tally = fs.openSync(process.env.BENCH_TALLY, "r");
    const eight = Buffer.alloc(8);
    const milliseconds = [];
    const started = Date.now();
    for (let number = 0; number < RING_WARM_UP + count; number++) {
      await sleep(PAUSE);
      const { size } = fs.fstatSync(tally);
      const before = process.hrtime.bigint();
      await add(number);
      const until = Date.now() + PATIENCE;
      while (fs.fstatSync(tally).size === size) {
        if (Date.now() > until) throw new Error(`no handler started in ${PATIENCE / 1000} seconds`);
        await sleep(1);
      }
      fs.readSync(tally, eight, 0, 8, size);
      if (number >= RING_WARM_UP) milliseconds.push(Number(eight.readBigUInt64LE() - before) / 1e6);
      if (Date.now() > started + RING_SECONDS * 1000) break;
    }
    return { milliseconds };
  });

const [command, argument] = process.argv.slice(2);
({ setup, work, single, fill, ring })[command](Number(argument)).then(
  (result) => {
    if (result) console.log(JSON.stringify(result));
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
