// Two people chat, each in their own browser; one loses the network for a while.
//
//   node chat.js FOLDER ADDRESS ADDRESS-THAT-IS-CUT SCREENSHOTS
//
// It asks for the cut and its end with lines of output, and continues when it reads a line of input.
'use strict';

const path = require('node:path');
const { until } = require('./devtools');
const { Person, outside, run } = require('./person');

const [, , folder, adaAt, benAt, screenshots] = process.argv;

function shoot(person, what) {
  return person.page.screenshot(path.join(screenshots, `${person.name}-${what}.png`));
}

async function talk(browser) {
  const ada = new Person('ada', await browser.page());
  const ben = new Person('ben', await browser.page({ scheme: 'dark' }));
  await ada.page.goTo(`${adaAt}/chat`);
  await shoot(ada, 'welcome');
  await ada.come(adaAt);
  await ben.come(benAt);

  await ada.makeRoom('engines');
  await ada.sees('#title', 'engines');
  await ben.enter('engines');
  const said = ['Does it run yet?'];
  await ada.say(said[0]);
  await ben.has(said);
  await ada.sees('#messages', 'Read by ben');
  // This is shown for a few seconds only, so he goes on until she sees it.
  await until('ada sees that ben is typing', async () => {
    await ben.write('It does');
    return ada.page.evaluate('document.querySelector("#typing").innerText.includes("ben is typing")');
  });
  await shoot(ada, 'typing');
  said.push('It does. Every write is an event, and what was said stays said.');
  await ben.say(said[1]);
  await ada.has(said);

  // A picture.
  await ada.attach(path.join(screenshots, 'ada-typing.png'));
  said.push('So it looks from here');
  await ada.say(said[2]);
  await ben.has(said);
  await ben.page.until('the picture is there', 'document.querySelector(".bubble img")?.naturalWidth > 100');

  // Another room, without Ben.
  await ada.makeRoom('tea');
  await ada.sees('#title', 'tea');
  await ada.say('Milk first?');
  await ada.say('Or last?');
  await ben.unread('tea', '2');
  await shoot(ben, 'unread');
  await ben.enter('tea');
  await ben.has(['Milk first?', 'Or last?']);
  await ben.unread('tea', '');
  await ben.enter('engines');
  await ada.enter('engines');

  // Ben's network fails. He keeps writing, and so does Ada.
  await outside('cut');
  await ben.sees('#connection', 'Not connected');
  const missed = ['Are you there?', 'I go on, then.', 'The drum turns.'];
  for (const text of missed) await ada.say(text);
  await ada.has([...said, ...missed]);
  await ben.say('I am in a tunnel');
  await ben.sees('#messages', 'Sending');
  await shoot(ben, 'in-the-tunnel');
  await ada.enter('tea');
  await ada.say('Ben?');
  await ada.has(['Milk first?', 'Or last?', 'Ben?']);
  await ada.enter('engines');
  await outside('mend');
  said.push(...missed, 'I am in a tunnel');
  await ben.has(said);
  await ada.has(said);
  await ben.unread('tea', '1');
  await ben.page.until('connected again', 'document.querySelector("#connection").textContent === ""');
  await shoot(ada, 'after-the-tunnel');

  // Everything is there when Ben is back.
  await ben.page.goTo(`${benAt}/chat`);
  await ben.unread('tea', '1');
  await ben.enter('engines');
  await ben.has(said);
  await ben.page.send('Emulation.setDeviceMetricsOverride', {
    width: 390, height: 780, mobile: true, deviceScaleFactor: 2,
  });
  await ben.say('And on it goes');
  await ada.has([...said, 'And on it goes']);
  await ben.has([...said, 'And on it goes']);
  const isAtEnd = '(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight < 2)';
  await ben.page.until('the end is seen', `${isAtEnd}(document.querySelector('#messages'))`);
  await shoot(ben, 'on-a-phone');
}

run(folder, talk);
