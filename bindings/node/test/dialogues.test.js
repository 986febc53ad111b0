/** The dialogues of the specification, with a core that only says what is written there. */

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';

import { Dialogue } from './support/dialogue.js';
import { REPOSITORY } from './support/helpers.js';

const dialogues = readdirSync(join(REPOSITORY, 'spec/conformance/dialogues'))
  .filter((file) => file.endsWith('.ndjson'))
  .map((file) => new Dialogue(basename(file, '.ndjson')))
  .filter((dialogue) => dialogue.isForClients);

test('there are dialogues to play', () => {
  assert.ok(dialogues.length > 0);
});

for (const dialogue of dialogues) {
  test(`${dialogue.head.dialogue}: ${dialogue.head.about}`, { timeout: 60_000 }, () =>
    dialogue.play(),
  );
}
