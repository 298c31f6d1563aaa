/** Random MAIL and RCPT commands: what reaches smtpd, and that a bounce comes back to the sender. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseCommand } from '../../../../lib/smtp/command.ts';
import type { Decision } from '../../../../lib/smtp/decision.ts';
import { type Path, splitPath, unquoteLocal } from '../../../../lib/smtp/path.ts';
import { createRewriting } from '../../../../lib/smtpd/srs/rewriting.ts';
import { createDomainForm } from '../../../../lib/srs/domain-form.ts';
import { createSrs, isSrs, type SrsSettings } from '../../../../lib/srs/srs.ts';
import { createRandom, type Random } from '../../../fuzz/random.ts';

const COUNT = 20_000;
const TIME = Date.UTC(2020, 0, 1);
const SETTINGS: SrsSettings = {
  keys: [Buffer.from('new'), Buffer.from('old')],
  ...{ hashLength: 4, hashMin: 4, maxAge: 21, separator: '=' },
};

/** Decides on commands as one session each. @returns undefined for an answer. */
function decide(domains: readonly [string, ...string[]], line: string): string | undefined {
  const decision: Decision = createRewriting({
    srs: createSrs(SETTINGS),
    domainForm: createDomainForm(SETTINGS),
    ...{ protocol: 'smtp', domains, packs: true, unpacks: true, refusesLong: false },
    report: { fatal() {}, warning() {}, info() {} },
    now: () => TIME,
  })(parseCommand(Buffer.from(line, 'latin1')), Buffer.from(line, 'latin1'), true);
  assert.ok(decision.type === 'pass' || decision.type === 'answer');
  return decision.type === 'answer' ? undefined : (decision.line ?? line);
}

const PIECES = [
  ...[
    'a',
    'B',
    '.',
    '..',
    '=',
    '+',
    '-',
    '"',
    '\\',
    ' ',
    '@',
    ':',
    ',',
    '<',
    '>',
    '[',
    ']',
    '\xc3\xa4',
    '\x7f',
    '1',
  ],
  ...['SRS0=', 'srs1+', 'SRS1-', 'SRS0', '2W', 'AAAA', 'ours.example', 'second.example', 'srs.ours.example'],
  ...[
    'AAAAAAAAAAAAAAAA',
    '[192.0.2.1]',
    '[IPv6:::1]',
    'x.example',
    '=x.example=',
    '==',
    '"a b"',
    '@x.example:',
  ],
] as const;

function randomText(random: Random): string {
  return Array.from({ length: random.below(8) }, () => random.pick([...PIECES])).join('');
}

function randomMailbox(random: Random): string {
  const local = random.chance(20) ? `"${randomText(random).replace(/["\\]/g, '')}"` : randomText(random);
  return random.chance(5)
    ? randomText(random)
    : `${local}@${random.chance(50) ? 'x.example' : randomText(random)}`;
}

function pathOf(line: string, word: 'FROM' | 'TO'): Path {
  const path = splitPath(line.replace(/^\S+ +/, ''), word, true);
  assert.ok(typeof path !== 'string', line);
  return path;
}

function isOurs(domain: string | undefined): boolean {
  return domain === undefined || /^(?:ours|second)\.example\.?$|\.srs\.ours\.example\.?$/i.test(domain);
}

for (const [name, first] of [
  ['SRS0 and SRS1', 'ours.example'],
  ['the domain form', '*.srs.ours.example'],
] as const) {
  describe(name, () => {
    const domains = [first, 'ours.example', 'second.example'] as const;
    const ours = (domain: string | undefined): boolean =>
      isOurs(domain) && (first !== 'ours.example' || !/srs\.ours\.example\.?$/i.test(domain ?? ''));

    it('gives smtpd senders of ours only, each of which comes back to the first sender', () => {
      let packed = 0;
      for (let index = 0; index < COUNT; index += 1) {
        const random = createRandom(1, index);
        const line = `MAIL FROM:<${randomMailbox(random)}>${random.pick(['', ' SIZE=1', '  X', 'x'])}`;
        const result = decide(domains, line);
        if (result === undefined) continue;
        const before = pathOf(line, 'FROM');
        const after = pathOf(result, 'FROM');
        assert.ok(ours(after.domain), result);
        assert.equal(after.rest, before.rest);
        if (ours(before.domain)) {
          assert.equal(after.mailbox, before.mailbox);
          continue;
        }
        packed += 1;
        const bounce = decide(domains, `RCPT TO:<${after.mailbox}>`);
        assert.ok(bounce !== undefined, `${line} ${result}`);
        const back = pathOf(bounce, 'TO');
        const isSrs1 =
          first === 'ours.example' && /^SRS1[=+-][^=]*=[^=]+=[=+-]/i.test(unquoteLocal(before.local));
        // The sender is not that of SRS1 then, but the first forwarder.
        if (isSrs1) continue;
        const dot = first === 'ours.example' ? before.domain : before.domain?.replace(/\.$/, '');
        assert.equal(back.domain, dot, `${line} ${result}`);
        const expected = unquoteLocal(before.local);
        const tag = first === 'ours.example' ? expected.replace(/^srs0(?=[=+-])/i, 'SRS0') : expected;
        assert.equal(unquoteLocal(back.local), tag, `${line} ${result}`);
      }
      assert.ok(packed > COUNT / 20, String(packed));
    });

    it('gives smtpd no SRS address of ours as a recipient', () => {
      let passed = 0;
      for (let index = 0; index < COUNT; index += 1) {
        const random = createRandom(2, index);
        const result = decide(domains, `RCPT TO:<${randomMailbox(random)}>`);
        if (result === undefined) continue;
        passed += 1;
        const { local, domain } = pathOf(result, 'TO');
        assert.ok(!(isSrs(unquoteLocal(local)) && ours(domain)), result);
        assert.ok(first === 'ours.example' || !/\.srs\.ours\.example\.?$/i.test(domain ?? ''), result);
      }
      assert.ok(passed > COUNT / 20, String(passed));
    });
  });
}
