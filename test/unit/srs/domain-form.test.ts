import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it } from 'node:test';
import { createDomainForm } from '../../../lib/srs/domain-form.ts';

const DAY = 86_400_000;
/** The stamp is 2W. */
const TIME = Date.UTC(2020, 0, 1, 0, 1);
const KEY = Buffer.from('tops3cr3t');
const SENDER = { local: 'Mary', domain: 'Example.net' };

const form = createDomainForm({ keys: [KEY], maxAge: 21 });
const written = form.forward(SENDER, TIME) ?? '';

describe('the domain form', () => {
  it('has a stamp and a signature in one label, and the domain of the sender', () => {
    assert.match(written, /^2W[A-Z2-7]{14}\.Example\.net$/);
    const digest = createHmac('sha1', KEY).update('srs domain form\x002w\0example.net\0mary').digest();
    const bits = [...digest].map((octet) => octet.toString(2).padStart(8, '0')).join('');
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
    for (let index = 0; index < 14; index += 1) {
      const digit = Number.parseInt(bits.slice(5 * index, 5 * index + 5), 2);
      assert.equal(written[2 + index], alphabet[digit]);
    }
  });

  it('stands for the sender, also in lower case, for the maximum age', () => {
    assert.deepEqual(form.reverse({ ...SENDER, domain: written }, TIME + 21 * DAY), SENDER);
    assert.deepEqual(form.reverse({ local: 'mary', domain: written.toLowerCase() }, TIME), {
      local: 'mary',
      domain: 'example.net',
    });
    assert.equal(form.reverse({ ...SENDER, domain: written }, TIME + 22 * DAY), 'expired');
  });

  it('is forged if any part was changed, or moved', () => {
    for (const domain of [
      written.replace('2W', '2X'),
      written.replace('.Ex', '.ex2'),
      written.replace('net', 'org'),
    ]) {
      assert.equal(form.reverse({ ...SENDER, domain }, TIME), 'forged', domain);
    }
    const changed = written.replace(
      /^(.{15})./,
      (_, start: string) => `${start}${written[15] === 'A' ? 'B' : 'A'}`,
    );
    assert.equal(form.reverse({ ...SENDER, domain: changed }, TIME), 'forged');
    assert.equal(form.reverse({ local: 'bob', domain: written }, TIME), 'forged');
    const moved = { local: 'tMary', domain: written.replace(/t$/, '') };
    assert.equal(form.reverse(moved, TIME), 'forged');
  });

  it('is malformed without a label of 16 digits, and a domain', () => {
    for (const domain of [
      '',
      'example.net',
      'AAAAAAAAAAAAAAA.example.net',
      'AAAAAAAAAAAAAAAA',
      'AAAAAAAAAAAAAAAA.',
      'AAAAAAAAAAAAAAA1.b',
    ]) {
      assert.equal(form.reverse({ ...SENDER, domain }, TIME), 'malformed', domain);
    }
  });

  it('is read with any key', () => {
    const both = createDomainForm({ keys: [Buffer.from('new'), KEY], maxAge: 21 });
    assert.deepEqual(both.reverse({ ...SENDER, domain: written }, TIME), SENDER);
    assert.notEqual(both.forward(SENDER, TIME), written);
  });

  it('is not possible for an address literal, and without a domain', () => {
    assert.equal(form.forward({ local: 'a', domain: '' }, TIME), undefined);
    assert.equal(form.forward({ local: 'a', domain: '[192.0.2.1]' }, TIME), undefined);
  });
});
