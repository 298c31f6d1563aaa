import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parsePath, quoteLocal, splitPath, unquoteLocal } from '../../../lib/smtp/path.ts';

describe('splitPath', () => {
  it('returns the parts of a mailbox, and what follows unchanged', () => {
    assert.deepEqual(splitPath('FROM:<"a b"@[IPv6:::1]> SIZE=1  X', 'FROM'), {
      mailbox: '"a b"@[IPv6:::1]',
      local: '"a b"',
      domain: '[IPv6:::1]',
      isRouted: false,
      rest: ' SIZE=1  X',
    });
  });

  it('drops a source route', () => {
    assert.deepEqual(splitPath('to:<@a.example,@b.example:c@d.example>', 'TO'), {
      ...{ mailbox: 'c@d.example', local: 'c', domain: 'd.example', isRouted: true, rest: '' },
    });
  });

  it('accepts the null sender, a mailbox without a domain, and any length', () => {
    assert.deepEqual(splitPath('FROM:<>', 'FROM'), {
      ...{ mailbox: '', local: '', domain: undefined, isRouted: false, rest: '' },
    });
    assert.deepEqual(splitPath('TO:<bob>', 'TO'), {
      ...{ mailbox: 'bob', local: 'bob', domain: undefined, isRouted: false, rest: '' },
    });
    const long = `${'a'.repeat(5000)}@b.example`;
    const path = splitPath(`TO:<${long}>`, 'TO');
    assert.equal(typeof path === 'string' ? path : path.mailbox, long);
    assert.equal(parsePath(`TO:<${long}>`, 'TO'), 'no-mailbox');
  });

  it('refuses what is not a path, and what stands right behind one', () => {
    assert.equal(splitPath('FROM:a@b.example', 'FROM'), 'no-path');
    assert.equal(splitPath('FROM:<a@b.example>', 'TO'), 'no-path');
    assert.equal(splitPath('TO:<a@>', 'TO'), 'no-mailbox');
    assert.equal(splitPath('TO:<a b@c>', 'TO'), 'no-mailbox');
    assert.equal(splitPath('TO:<\xe4@c>', 'TO'), 'no-mailbox');
    assert.notEqual(splitPath('TO:<\xe4@c>', 'TO', true), 'no-mailbox');
    assert.equal(splitPath('TO:<a@b>c', 'TO'), 'bad-parameters');
  });
});

describe('parsePath', () => {
  it('limits a path to 256 octets, with brackets and source route', () => {
    const path = (length: number): string => `TO: <@x:a@${'b'.repeat(length - 7)}> P=1`;
    assert.notEqual(parsePath(path(256), 'TO'), 'no-mailbox');
    assert.equal(parsePath(path(257), 'TO'), 'no-mailbox');
  });
});

describe('quoteLocal', () => {
  it('is the inverse of unquoteLocal', () => {
    for (const local of [
      'a',
      'a.b',
      'a b',
      '"',
      '\\',
      'a@b',
      '.a',
      'a.',
      'a..b',
      '\xc3\xa4',
      '<>',
      'a"\\"b',
    ]) {
      assert.equal(unquoteLocal(quoteLocal(local)), local);
      assert.notEqual(splitPath(`TO:<${quoteLocal(local)}@b>`, 'TO', true), 'no-mailbox', local);
    }
  });
});
