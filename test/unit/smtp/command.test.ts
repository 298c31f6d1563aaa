/** Parsing of command lines. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type CommandKind, chunkSize, parseCommand } from '../../../lib/smtp/command.ts';

function parse(line: string) {
  return parseCommand(Buffer.from(line, 'latin1'));
}

describe('parseCommand', () => {
  const kinds: ReadonlyArray<[CommandKind, readonly string[]]> = [
    ['hello', ['EHLO', 'LHLO']],
    ['helo', ['HELO']],
    ['starttls', ['STARTTLS']],
    ['mail', ['MAIL']],
    ['auth', ['AUTH']],
    ['early', ['RCPT', 'DATA']],
    ['chunk', ['BDAT']],
    ['foreign', ['CONNECT', 'DELETE', 'GET', 'HEAD', 'OPTIONS', 'PATCH', 'POST', 'PRI', 'PUT', 'TRACE']],
    ['other', ['QUIT', 'NOOP', 'RSET', 'VRFY', 'EXPN', 'HELP', 'XYZZY', 'toString', '__proto__']],
  ];
  for (const [kind, verbs] of kinds) {
    it(`parses ${verbs.join(', ')} as ${kind}, in any case`, () => {
      for (const verb of verbs) {
        for (const line of [verb, verb.toLowerCase(), `${verb} x`])
          assert.equal(parse(line).kind, kind, line);
      }
    });
  }

  it('skips white space before a verb and ends the verb at white space of any kind', () => {
    for (const space of [' ', '\t', '\v', '\f', ' \t ']) {
      assert.deepEqual(parse(`${space}AUTH${space}PLAIN${space}x${space}`), {
        kind: 'auth',
        verb: 'AUTH',
        argument: `PLAIN${space}x`,
      });
    }
  });

  it('takes the whole first word as the verb', () => {
    for (const line of ['AUTHX', 'XAUTH', 'AU TH', 'MAIL:', 'STARTTLS2', 'AUTH\x00']) {
      assert.equal(parse(line).kind, 'other', line);
    }
  });

  it('recognizes an empty line', () => {
    for (const line of ['', ' ', '\t \v'])
      assert.deepEqual(parse(line), { kind: 'empty', verb: '', argument: '' });
  });

  it('gives the argument without surrounding white space', () => {
    assert.equal(parse('STARTTLS').argument, '');
    assert.equal(parse('STARTTLS \t').argument, '');
    assert.equal(parse(' MAIL  FROM:<a@b>  SIZE=1 ').argument, 'FROM:<a@b>  SIZE=1');
  });
});

describe('chunkSize', () => {
  it('reads the size', () => {
    assert.equal(chunkSize('0'), 0);
    assert.equal(chunkSize('86'), 86);
    assert.equal(chunkSize('86 LAST'), 86);
    assert.equal(chunkSize('0086 LAST'), 86);
  });

  it('is 0 if there is none', () => {
    for (const argument of ['', 'LAST', '-5', '+5', 'x5', 'a5', '.5'])
      assert.equal(chunkSize(argument), 0, argument);
  });

  it('is at most the largest safe integer', () => {
    assert.equal(chunkSize('9'.repeat(400)), Number.MAX_SAFE_INTEGER);
  });
});
