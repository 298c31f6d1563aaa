/** A front whose client is answered by a prelude. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { createPrelude, type Prelude } from '../../../lib/smtp/prelude.ts';
import { createPreludeFront } from '../../../lib/smtpd/prelude-front.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { createTestSmtpd } from '../../support/test-stream.ts';

/** A front, and what its user has read and its handler was told. */
function start(t: TestContext) {
  const clock = stopClock(t);
  const events: string[] = [];
  let read = '';
  let kept = 0;
  const real = createPrelude({
    introduction: {
      greeting: { code: 220, texts: ['host'] },
      ehlo: { code: 250, texts: ['host', 'SIZE'] },
      helo: { code: 250, texts: ['host'] },
    },
    ...{ hello: undefined, errorLimit: 3, introduced() {} },
  });
  const prelude: Prelude = {
    ...real,
    fromClient: (bytes) => {
      kept += bytes.length;
      real.fromClient(bytes);
    },
  };
  const front = createPreludeFront(prelude, 10_000, {
    needed: (hello) => events.push(`needed ${hello}`),
    notice: ({ about }) => events.push(`notice ${about}`),
    ended: () => events.push('ended'),
    closed: () => events.push('closed'),
  });
  front.stream.source.listen({
    bytes: (bytes) => {
      read += Buffer.from(bytes).toString('latin1');
    },
    ended: () => events.push('end read'),
  });
  front.stream.source.read();
  /** What was read since the last time. */
  const take = async (): Promise<string> => {
    await settle();
    const all = read;
    read = '';
    return all;
  };
  const write = (text: string): Promise<string> => {
    front.stream.sink.write(Buffer.from(text, 'latin1'));
    return take();
  };
  return { clock, front, prelude, events, write, take, kept: () => kept };
}

describe('a front with a prelude', () => {
  it('waits with a command that needs smtpd', async (t) => {
    const { events, write } = start(t);
    assert.equal(
      await write('EHLO me\r\nMAIL FROM:<a@b>\r\nNOOP\r\n'),
      '220 host\r\n250-host\r\n250 SIZE\r\n',
    );
    assert.deepEqual(events, ['needed EHLO me']);
  });

  it('answers a command that is refused, goes on, and counts', async (t) => {
    const { front, prelude, events, write, take } = start(t);
    for (const replies of ['451 no\r\n', '451 no\r\n', /^451 no\r\n421 4\.7\.0 /]) {
      await write('MAIL FROM:<a@b>\r\n');
      prelude.refuse(Buffer.from('451 no\r\n'));
      front.resume();
      const reply = await take();
      if (typeof replies === 'string') assert.equal(reply, replies);
      else assert.match(reply, replies);
    }
    assert.deepEqual(events.slice(3), ['notice error-limit', 'ended', 'end read']);
  });

  it('keeps nothing that is sent after the end', async (t) => {
    const { write, events, kept } = start(t);
    await write('QUIT\r\n');
    assert.deepEqual(events, ['ended', 'end read']);
    const before = kept();
    await write('x'.repeat(100_000));
    assert.equal(kept(), before);
  });

  it('has no idle timeout while a command waits for smtpd, and one after that', async (t) => {
    const { clock, front, prelude, events, write, take } = start(t);
    await write('MAIL FROM:<a@b>\r\n');
    await clock.pass(20_000);
    prelude.refuse(Buffer.from('451 no\r\n'));
    front.resume();
    assert.equal(await take(), '451 no\r\n');
    await clock.pass(10_000);
    assert.match(await take(), /^421 4\.4\.2 /);
    assert.deepEqual(events, ['needed undefined', 'ended', 'end read']);
  });

  it('passes on all that was not consumed, after what smtpd has sent', async (t) => {
    const { front, write, take } = start(t);
    const smtpd = createTestSmtpd();
    await write('EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT');
    front.connect(smtpd, Buffer.from('421 early\r\n'));
    assert.match(await write(' TO:<c@d>\r\n'), /421 early\r\n$/);
    assert.equal(smtpd.received(), 'MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n');
    smtpd.send('250 ok\r\n');
    assert.equal(await take(), '250 ok\r\n');
  });
});
