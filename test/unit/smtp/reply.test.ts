/** Parsing and formatting of reply lines. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { extensionKeyword, formatReplyLine, parseReplyLine, REPLIES } from '../../../lib/smtp/reply.ts';

function parse(line: string) {
  return parseReplyLine(Buffer.from(line, 'latin1'));
}

describe('parseReplyLine', () => {
  it('parses a last line and a line that is not the last', () => {
    assert.deepEqual(parse('250 ok then'), { code: 250, last: true, text: 'ok then' });
    assert.deepEqual(parse('250-ok then'), { code: 250, last: false, text: 'ok then' });
  });

  it('parses a line without text', () => {
    assert.deepEqual(parse('250'), { code: 250, last: true, text: '' });
    assert.deepEqual(parse('250 '), { code: 250, last: true, text: '' });
    assert.deepEqual(parse('250-'), { code: 250, last: false, text: '' });
  });

  it('keeps the text unchanged, octet by octet', () => {
    assert.equal(parse('250  - a\t\xff\x85\n ')?.text, ' - a\t\xff\x85\n ');
  });

  it('accepts the codes 200 to 599 and no others', () => {
    for (const code of [200, 299, 300, 421, 599]) assert.equal(parse(`${code} x`)?.code, code);
    for (const code of ['000', '199', '600', '999']) assert.equal(parse(`${code} x`), undefined, code);
  });

  it('rejects everything else', () => {
    for (const line of [
      '',
      '2',
      '25',
      '2500',
      '25x',
      '250x',
      '250\tok',
      ' 250 ok',
      '+250 ok',
      'ok',
      '250_ok',
    ]) {
      assert.equal(parse(line), undefined, line);
    }
  });
});

describe('formatReplyLine', () => {
  it('formats what parseReplyLine parsed', () => {
    for (const line of ['250 ok', '250-ok', '599 ', '200-', '421 \xff\x80-']) {
      const reply = parse(line);
      assert.ok(reply !== undefined);
      assert.equal(formatReplyLine(reply).toString('latin1'), `${line}\r\n`);
    }
  });
});

describe('extensionKeyword', () => {
  for (const [text, keyword] of [
    ['AUTH PLAIN LOGIN', 'AUTH'],
    ['auth', 'AUTH'],
    ['AUTH=LOGIN', 'AUTH'],
    ['StartTLS', 'STARTTLS'],
    ['AUTHX', 'AUTHX'],
    ['', ''],
  ] as const) {
    it(`finds "${keyword}" in "${text}"`, () => {
      assert.equal(extensionKeyword(text), keyword);
    });
  }
});

describe('REPLIES', () => {
  for (const [name, reply] of Object.entries(REPLIES)) {
    it(`${name}: one line, with an enhanced status code that fits its code`, () => {
      const text = reply.toString('latin1');
      assert.match(text, /^([245])\d\d \1\.\d+\.\d+ [\x20-\x7e]+\r\n$/);
      assert.ok(text.length <= 512, 'no longer than RFC 5321 section 4.5.3.1.5 allows');
    });
  }
});
