/** The routing, by transcripts, and with routes that change. */

import assert from 'node:assert/strict';
import { it } from 'node:test';
import type { Destination } from '../../lib/smtp/destination.ts';
import { createRouting } from '../../lib/smtp/routing.ts';
import { replayRouting } from '../support/replay-routing.ts';
import { testTranscripts } from '../support/run-transcripts.ts';

testTranscripts(new URL('./', import.meta.url), replayRouting);

it('refuses the command that needed a destination, and no other, if the routes change meanwhile', () => {
  let keys = ['old'];
  const routing = createRouting<Destination>({
    ...{ name: 'host', protocol: 'smtp', errorLimit: 10 },
    to: {
      table: () => ({
        hasRecipients: keys.length > 1,
        find: () => (keys.length === 0 ? undefined : { key: keys[0] ?? '', takesOneRecipient: false }),
      }),
      offers: [],
    },
  });
  const steps = (): string[] => {
    const seen: string[] = [];
    for (let step = routing.next(); step !== undefined; step = routing.next()) {
      seen.push('bytes' in step ? Buffer.from(step.bytes).toString('latin1') : step.type);
    }
    return seen;
  };
  steps();
  for (const [now, next] of [
    [[], ['next']],
    [['one', 'by recipient'], ['one']],
  ] as const) {
    keys = ['old'];
    routing.fromClient(Buffer.from('MAIL FROM:<me@a.example>\r\n'));
    assert.deepEqual(steps(), ['connect']);
    keys = [...now];
    routing.refuse(Buffer.from('451 old\r\n'));
    assert.deepEqual(steps(), ['451 old\r\n']);
    keys = [...next];
    routing.fromClient(Buffer.from('MAIL FROM:<me@a.example>\r\n'));
    assert.deepEqual(steps(), ['connect']);
    routing.refuse(Buffer.from('451 next\r\n'));
    assert.deepEqual(steps(), ['451 next\r\n']);
  }
});
