"""What pocket knows about ollmlx: commands, options, variables, the API, errors, and about itself.

Each fact has one answer, the words that an answer must hold, and questions made of a way to ask and a way to say it.
Held out are pairs of the two: wordings that were never seen, of facts that were.
"""

from .case import Case, answer, contains, typed, until, user

# Ways to ask how something is done.
HOW = (
    "How do I {}?|How can I {}?|Which command do I use to {}?|What is the command to {}?|What should I type to {}?|"
    "I want to {}.|I want to {}. How?|Tell me how to {}.|Is there a command to {}?|What do I run to {}?|Show me how to {}.|"
    "Can you explain how to {}?|With ollmlx, how do I {}?|How do I {} with ollmlx?|Command to {}?|I need to {}.|"
    "How does one {}?|What is the way to {} in ollmlx?|Which ollmlx command can {}?|How to {}?|What must I do to {}?|"
    "Please tell me how to {}.|I would like to {}.|How would I {}?|Can I {}?|Can ollmlx {}?|"
    "What's the command to {}?|whats the command to {}|how can i {} please|I'm trying to {}.|I am trying to {}. What do I type?|"
    "Could you tell me how to {}?|Is it possible to {}?|What do I have to do to {}?|Do you know how to {}?|Any way to {}?|"
    "Help me {}.|I have to {}, how does that work?|What is the right command to {}?|My goal is to {}.|Let me {}."
).split("|")
# Ways to ask what something is.
WHAT = (
    "What does {} do?|What is {}?|What is {} for?|Explain {}.|Describe {}.|Tell me about {}.|When do I need {}?|"
    "What happens with {}?|What does {} mean?|Why would I use {}?|Can you explain {}?|What can I do with {}?|{}?|"
    "In ollmlx, what is {}?|What do I need {} for?|What is the purpose of {}?|How does {} work?|Help me with {}.|"
    "What is the meaning of {}?|I do not understand {}.|"
    "What's {}?|Could you explain {}?|Give me a short explanation of {}.|What do you know about {}?|I read about {}. What is it?|"
    "Do you know {}?|Please explain {} to me.|What is meant by {}?|Say something about {}.|I have a question about {}."
).split("|")

# answer | words it must hold | ways to say what one wants to do
DO = """
Run `ollmlx serve`. It listens on 127.0.0.1:11434. | ollmlx serve | start the server;launch the server;start ollmlx as a server;bring up the server;start serving;run the server;get the server going;turn the server on
Run `ollmlx run NAME`. It opens a chat with the model. | ollmlx run | run a model;chat with a model;talk to a model;start a chat;use a model;start a conversation;open a chat prompt;speak with a model
Run `ollmlx run NAME "your question"`. It prints the answer and ends. | ollmlx run NAME " | ask one question;get a single answer;ask a question from the shell;use a model in a script;give a prompt on the command line;ask without a chat;get one answer and leave
Run `ollmlx list`. It shows name, size and age of each model. | ollmlx list | list my models;see which models I have;show all models;list the installed models;see all my models;display the models on my disk;see what is installed;get a list of models
Run `ollmlx ps`. It shows the models that are loaded now. | ollmlx ps | see which models are running;list running models;see what is loaded;show loaded models;check which models are in memory;see the models in memory;find out what is running
Run `ollmlx stop NAME`. It unloads the model. | ollmlx stop | stop a model;unload a model;free the memory of a model;end a running model;remove a model from memory;take a model out of memory;shut a model down
Run `ollmlx rm NAME`. It deletes the model from the disk. | ollmlx rm | delete a model;remove a model;erase a model;get rid of a model;delete a model from disk;free disk space;throw a model away;uninstall a model
Run `ollmlx cp SOURCE DESTINATION`. It copies a model under a new name. | ollmlx cp | copy a model;duplicate a model;give a model a second name;rename a model;make a copy of a model;clone a model
Run `ollmlx show NAME`. It tells the details of a model. | ollmlx show | see the details of a model;show information about a model;inspect a model;see the parameters of a model;look at a model;find out more about a model;see the context length of a model
Run `ollmlx show --modelfile NAME`. | --modelfile | see the Modelfile of a model;show a Modelfile;print the Modelfile;get the Modelfile of a model;look at the Modelfile
Run `ollmlx show --template NAME`. | --template | see the template of a model;show the chat template;print the template;get the template of a model;look at the chat template
Run `ollmlx show --license NAME`. | --license | see the license of a model;show the licence;print the license;find the license of a model;check the licence of a model
Run `ollmlx show --system NAME`. | --system | see the system message of a model;show the system prompt;print the system message;find out the system prompt of a model
Run `ollmlx create NAME -f Modelfile`. | ollmlx create | create a model;make my own model;build a model from a Modelfile;import a model;make a model from files;import safetensors;create a model from a directory;add my own model
Run `ollmlx create NAME -q int4`. It quantizes the weights while it imports them. | -q | quantize a model;make a model smaller;compress a model;shrink a model;use four bits per weight;import a model in int4;save memory by quantizing
Run `ollmlx pull NAME`. It downloads the model. | ollmlx pull | download a model;pull a model;get a new model;fetch a model;install a model;load a model from the registry;update a model
Run `ollmlx push NAME`. It uploads the model to a registry. | ollmlx push | upload a model;push a model;publish a model;share a model;send a model to a registry;put a model online
Run `ollmlx doctor`. It checks the machine and tells what to do. | ollmlx doctor | check my installation;find out what is wrong;test my machine;check that everything works;diagnose a problem;check my setup;see if MLX works;examine my machine
Run `ollmlx bench NAME`. It measures the speed of a model. | ollmlx bench | measure the speed;benchmark a model;see how fast a model is;test the speed of a model;measure tokens per second;run a benchmark;know how fast my machine is
Run `ollmlx --version`. | --version | see the version;find out the version;print the version;check which version I have;know the version of ollmlx;show the version number
Run `ollmlx --help`, or `ollmlx COMMAND --help` for one command. | --help | get help;see all commands;read the manual;list the commands;see the options of a command;find help for a command;show the help text
Type `/bye`. | /bye | leave the chat;end the chat;quit the chat;exit the prompt;close the conversation;get out of the chat;leave the prompt
Type `/clear`. It forgets the conversation. | /clear | clear the conversation;forget the chat;start the chat over;clear the context;reset the conversation;begin a new conversation
Type `/save NAME`. It saves the conversation as a model. | /save | save a conversation;save the chat;keep my chat session;store the conversation;save my session
Type `/load NAME`. It loads a model or a saved conversation. | /load | load a conversation;switch the model in a chat;load a saved chat;change the model in the prompt;load my session
Type `/set system TEXT`. | /set system | change the system prompt in a chat;set a system message in the chat;set the system prompt;give the chat a system message
Type `/set parameter NAME VALUE`, like `/set parameter temperature 0.5`. | /set parameter | change a parameter in a chat;set the temperature in a chat;change the temperature in the prompt;set a parameter in the chat
Type `/?`. It lists the commands of the chat. | /? | get help in a chat;see the chat commands;list the slash commands;show help in the prompt;see what I can type in a chat
Start and end the text with three quotes: `\"""`. | \""" | write several lines in a chat;enter a text of many lines;type more than one line;send a multiline message;write a long message in the chat
Use `ollmlx run NAME --verbose`. It shows timings after the answer. | --verbose | see the timings;show tokens per second;see how long an answer took;print statistics;show timings of a response;see the speed of an answer
Use `ollmlx run NAME --think`. | --think | turn thinking on;let the model think;enable thinking;make a model think first;switch thinking on;see a model think
Use `ollmlx run NAME --think=false`. | --think=false | turn thinking off;disable thinking;stop the model from thinking;switch thinking off;get an answer without thinking;skip the thinking
Use `ollmlx run NAME --hidethinking`. | --hidethinking | hide the thinking;not see the thoughts;hide thoughts;keep the thoughts from being printed;hide the thinking output
Use `ollmlx run NAME --format json`. | --format json | get JSON output;make the model answer in JSON;force JSON;get structured output;receive JSON on the command line;have answers as JSON
Use `ollmlx run NAME --keepalive 1h`. | --keepalive | keep a model loaded longer;keep a model in memory;set how long a model stays loaded;hold a model in memory for an hour;keep a model warm
Use `ollmlx run NAME --nowordwrap`. | --nowordwrap | turn word wrap off;print lines without wrapping;disable word wrapping;stop wrapping lines;avoid wrapped lines
Set OLLAMA_HOST, like OLLAMA_HOST=0.0.0.0:11434. | OLLAMA_HOST | change the port;use another port;listen on another address;open the server to the network;change the address of the server;serve other machines;reach the server from another computer
Set OLLAMA_MODELS to the directory. | OLLAMA_MODELS | change where models are stored;store models on another disk;move the models directory;keep models elsewhere;use another models folder;change the store
Set OLLAMA_KEEP_ALIVE, like OLLAMA_KEEP_ALIVE=1h. | OLLAMA_KEEP_ALIVE | keep all models loaded longer;change the keep-alive of the server;set the default keep-alive;never unload models;unload models sooner
Set OLLAMA_CONTEXT_LENGTH, like OLLAMA_CONTEXT_LENGTH=8192. | OLLAMA_CONTEXT_LENGTH | change the context length;use a longer context;set the default context;make the context larger;raise the context size;read longer prompts
Set OLLAMA_MAX_LOADED_MODELS. | OLLAMA_MAX_LOADED_MODELS | limit how many models are loaded;load only one model at a time;set the maximum of loaded models;allow more loaded models;load several models at once
Set OLLAMA_NUM_PARALLEL. | OLLAMA_NUM_PARALLEL | limit parallel requests;serve more requests at once;set the number of parallel requests;answer several requests together;change how many requests run at the same time
Set OLLAMA_MAX_QUEUE. | OLLAMA_MAX_QUEUE | limit the queue;change the length of the queue;let more requests wait;set the maximum of waiting requests;make the queue longer
Set OLLAMA_ORIGINS to a list of origins. | OLLAMA_ORIGINS | allow a web page to use the server;set the allowed origins;fix a CORS error;let a browser use the server;allow other origins
Set OLLAMA_DEBUG=1. | OLLAMA_DEBUG | see debug output;get more log lines;turn debugging on;make the log longer;see what the server does
Set OLLAMA_LLM_LIBRARY=cpu. | OLLAMA_LLM_LIBRARY | use the CPU only;not use the GPU;force the CPU;choose the MLX variant;run without a graphics card;avoid the GPU
Set OLLMLX_MEMORY_BYTES, like OLLMLX_MEMORY_BYTES=24GiB. | OLLMLX_MEMORY_BYTES | limit the memory;set how much memory models may take;use less memory for models;give models more memory;restrict memory use
Send a POST request to /api/chat with a model and messages. | /api/chat | chat over HTTP;send chat messages to the API;use the chat API;send a conversation over HTTP;chat from my program;call the chat endpoint
Send a POST request to /api/generate with a model and a prompt. | /api/generate | generate text over HTTP;complete a prompt with the API;use the generate API;send a prompt over HTTP;get a completion from the API;call the generate endpoint
Send a GET request to /api/tags. | /api/tags | list models over HTTP;get the models from the API;list models with the API;see my models from a program;ask the API which models exist
Send a GET request to /api/ps. | /api/ps | list running models over HTTP;ask the API which models are loaded;see loaded models with the API;get the running models from a program
Send a GET request to /api/version. | /api/version | get the version over HTTP;ask the API for its version;read the version from a program;check the server version with the API
Send a POST request to /api/show with the model. | /api/show | get model details over HTTP;ask the API about a model;show a model with the API;read the details of a model from a program
Send a POST request to /v1/chat/completions. | /v1/chat/completions | use the OpenAI API;use an OpenAI client;connect an OpenAI library;chat with the OpenAI dialect;use the server like OpenAI;call it with the OpenAI SDK
Set "stream" to false in the request. | "stream" | turn streaming off;get the whole answer at once;disable streaming in the API;not stream the answer;receive one JSON object only
Set "temperature" in "options". 0 always takes the likeliest word. | temperature | change the temperature over HTTP;set the temperature in the API;make answers less random;get the same answer each time;make answers more creative
Set "seed" in "options" to a number. | seed | get repeatable answers;set a seed;make sampling repeatable;fix the random numbers;use a fixed seed
Set "num_predict" in "options". | num_predict | limit the length of an answer;set the maximum of tokens;stop after some tokens;make answers shorter;limit generated tokens
Set "num_ctx" in "options". | num_ctx | set the context for one request;change the context in the API;use a larger context in a request;set the context size over HTTP
Set "keep_alive" in the request, like "10m". 0 unloads the model at once. | keep_alive | set the keep-alive in a request;unload a model over HTTP;keep a model loaded with the API;control how long a model stays over HTTP
Write `FROM ./directory` into a Modelfile, then run `ollmlx create NAME -f Modelfile`. | FROM | use a model from Hugging Face files;import a safetensors directory;make a model of a local directory;use my own weights;start a Modelfile
Write `SYSTEM your text` into the Modelfile. | SYSTEM | give a model a system prompt;set the system message in a Modelfile;write a system prompt into a Modelfile;change the character of a model
Write `PARAMETER temperature 0.5` into the Modelfile. | PARAMETER | set a parameter in a Modelfile;set the temperature in a Modelfile;give a model default parameters;write parameters into a Modelfile
Write `TEMPLATE` with the text of the template into the Modelfile. | TEMPLATE | change the template of a model;set a template in a Modelfile;write my own chat template;give a model another template
Run `cargo ollmlx run pocket` in its source. It downloads MLX, builds the program and starts it. | cargo ollmlx | build ollmlx;install ollmlx;compile ollmlx;build the program from source;get ollmlx to run;set ollmlx up
Press Ctrl+C in its terminal. | Ctrl+C | stop the server;end the server;shut the server down;quit the server;turn the server off
"""

# answer | words it must hold | names of the thing
IS = """
ollmlx is a program that runs language models on your own machine. It has the API and the commands of Ollama and computes with MLX. | language models;MLX | ollmlx;the program ollmlx;this program;ollmlx good for
I am pocket, a very small language model that comes with ollmlx. | pocket | pocket;the model pocket;the pocket model;pocket good for
MLX is Apple's library for computing with arrays. ollmlx runs every model on it. | Apple | MLX;the MLX library;libmlx;mlx good for
Ollama is a program that runs local models. ollmlx takes its place, with the same API, commands and store. | takes its place | Ollama;the program Ollama;ollama compared to ollmlx
`ollmlx serve` starts the server, on 127.0.0.1:11434. | starts the server | `ollmlx serve`;ollmlx serve;the serve command;the command serve
`ollmlx run` runs a model: with a prompt it answers once, without one it opens a chat. | runs a model | `ollmlx run`;ollmlx run;the run command;the command run
`ollmlx list` lists the models you have. | lists the models | `ollmlx list`;ollmlx list;the list command;the command list;ollmlx ls
`ollmlx ps` lists the models that are loaded now. | loaded | `ollmlx ps`;ollmlx ps;the ps command;the command ps
`ollmlx stop` unloads a running model. | unloads | `ollmlx stop`;ollmlx stop;the stop command;the command stop
`ollmlx rm` removes models from the disk. | removes | `ollmlx rm`;ollmlx rm;the rm command;the command rm
`ollmlx cp` copies a model under a new name. | copies | `ollmlx cp`;ollmlx cp;the cp command;the command cp
`ollmlx show` tells the details of a model: its size, context length, parameters and template. | details | `ollmlx show`;ollmlx show;the show command;the command show
`ollmlx create` makes a model from a Modelfile. | Modelfile | `ollmlx create`;ollmlx create;the create command;the command create
`ollmlx pull` downloads a model. | downloads | `ollmlx pull`;ollmlx pull;the pull command;the command pull
`ollmlx push` uploads a model to a registry. | uploads | `ollmlx push`;ollmlx push;the push command;the command push
`ollmlx doctor` checks this machine for running models and tells what to do where something is missing. | checks | `ollmlx doctor`;ollmlx doctor;the doctor command;the command doctor;the doctor
`ollmlx bench` measures how fast a model runs on this machine. | measures | `ollmlx bench`;ollmlx bench;the bench command;the command bench
A Modelfile describes a model: FROM names what it is made of; SYSTEM, PARAMETER and TEMPLATE change it. | FROM | a Modelfile;the Modelfile;Modelfile;a Modelfile good for
FROM names the model, or the directory with weights, that a new model is made of. | made of | FROM in a Modelfile;the word FROM;the FROM line;FROM
OLLAMA_HOST is the address of the server. The default is 127.0.0.1:11434. | address | OLLAMA_HOST;the variable OLLAMA_HOST;the setting OLLAMA_HOST
OLLAMA_MODELS is the directory where models are stored. | directory | OLLAMA_MODELS;the variable OLLAMA_MODELS;the setting OLLAMA_MODELS
OLLAMA_KEEP_ALIVE says how long models stay loaded. The default is 5 minutes. | stay loaded | OLLAMA_KEEP_ALIVE;the variable OLLAMA_KEEP_ALIVE;the setting OLLAMA_KEEP_ALIVE;keep-alive
OLLAMA_CONTEXT_LENGTH is the context length that is used if nothing else is said. | context length | OLLAMA_CONTEXT_LENGTH;the variable OLLAMA_CONTEXT_LENGTH;the setting OLLAMA_CONTEXT_LENGTH
OLLAMA_MAX_LOADED_MODELS limits how many models are loaded at a time. | how many models | OLLAMA_MAX_LOADED_MODELS;the variable OLLAMA_MAX_LOADED_MODELS;the setting OLLAMA_MAX_LOADED_MODELS
OLLAMA_NUM_PARALLEL limits how many requests run at a time. | how many requests | OLLAMA_NUM_PARALLEL;the variable OLLAMA_NUM_PARALLEL;the setting OLLAMA_NUM_PARALLEL
OLLAMA_MAX_QUEUE limits how many requests may wait. | wait | OLLAMA_MAX_QUEUE;the variable OLLAMA_MAX_QUEUE;the setting OLLAMA_MAX_QUEUE
OLLAMA_ORIGINS names the web origins that may use the server. | origins | OLLAMA_ORIGINS;the variable OLLAMA_ORIGINS;the setting OLLAMA_ORIGINS
OLLAMA_DEBUG shows more lines in the server's log. | log | OLLAMA_DEBUG;the variable OLLAMA_DEBUG;the setting OLLAMA_DEBUG
OLLMLX_MLX_PATH says where to look for MLX first. | where to look | OLLMLX_MLX_PATH;the variable OLLMLX_MLX_PATH;the setting OLLMLX_MLX_PATH
OLLMLX_MEMORY_BYTES limits the memory that all models together may take. | memory | OLLMLX_MEMORY_BYTES;the variable OLLMLX_MEMORY_BYTES;the setting OLLMLX_MEMORY_BYTES
Temperature says how random an answer is. 0 always takes the likeliest word. | random | temperature;the temperature;the option temperature;the parameter temperature
top_k keeps only the k likeliest words to choose from. | likeliest | top_k;the option top_k;the parameter top_k
top_p keeps the likeliest words until their chances add up to p. | chances | top_p;the option top_p;the parameter top_p
min_p drops words that are much less likely than the best one. | less likely | min_p;the option min_p;the parameter min_p
The seed fixes the random numbers: the same seed gives the same answer. | same answer | seed;the seed;the option seed;the parameter seed;a seed
num_predict is the largest number of tokens in an answer. | tokens | num_predict;the option num_predict;the parameter num_predict
num_ctx is the number of tokens that a model sees at once. | tokens | num_ctx;the option num_ctx;the parameter num_ctx;the context length
stop names texts at which an answer ends. | ends | the option stop;the parameter stop;a stop sequence;stop sequences
A token is a piece of text: a word or a part of one. | piece of text | a token;tokens;the word token
Quantizing stores weights in fewer bits. The model gets smaller and faster, and a little less exact. | fewer bits | quantizing;quantization;a quantized model;int4
Safetensors is a file format for the weights of a model. | weights | safetensors;a safetensors file;the safetensors format
A runner is the process of one loaded model. If it fails, the server goes on. | process | a runner;the runner;a runner process
A system prompt tells a model how to behave. | behave | a system prompt;the system prompt;a system message
Thinking means that a model writes down its thoughts before it answers. | thoughts | thinking;the thinking mode;--think;a thinking model
A tool is a function that a model may call. Name it in the request, and the model asks for it when it is needed. | function | a tool;tools;tool calling;a tool call;function calling
This means that no model has this name. `ollmlx list` shows the names; `ollmlx pull NAME` downloads a model. | ollmlx list | the error "model not found";the error model not found;"model not found";the message "model 'x' not found"
This means that no server answers. Start one with `ollmlx serve`. | ollmlx serve | the error "could not connect to a running server";"connection refused";the error connection refused;the message that no server answers
This means that another program uses the port. End it, or choose another address with OLLAMA_HOST. | OLLAMA_HOST | the error "address already in use";"address already in use";the error address already in use;the message that the port is in use
This means that the model needs more memory than is free. Stop a loaded model or use a smaller one. | memory | the error "out of memory";out of memory;the message that memory is not enough;the error that a model needs more memory
This means that too many requests wait. Try again later, or raise OLLAMA_MAX_QUEUE. | OLLAMA_MAX_QUEUE | the error "server busy";server busy;the message that the server is busy;the error that the queue is full
This means that the prompt is longer than the context. Shorten it, or raise num_ctx. | num_ctx | the error that the prompt is too long;a prompt that is too long;the message about the maximum context length
"""

# answer | words it must hold | whole questions
ASKED = """
I am pocket, a very small language model that comes with ollmlx. I can answer questions about ollmlx, calculate, count, sort, spell, copy, turn text into JSON, call tools, and find things in a text. | pocket;ollmlx | What can you do?;What are you able to do?;What are your abilities?;What do you know?;Tell me what you can do.;What are you good at?;How can you help me?;What can I ask you?;What can I use you for?;Show me what you can do.;What are your skills?;Which things can you do?;What can I do with you?;What is your purpose?;What can pocket do?;What are you for?;What kinds of questions can you answer?
I am pocket, a very small language model that comes with ollmlx. | pocket | Who are you?;What are you?;What is your name?;Tell me about yourself.;Introduce yourself.;What model are you?;Which model is this?;What are you called?;Who am I talking to?;Which model are you?;Do you have a name?;Say who you are.
I was trained for ollmlx, on text that its own programs wrote. | trained | Who made you?;Who created you?;Who trained you?;Where do you come from?;How were you made?;How were you trained?;What were you trained on?;Who built you?;Who is your maker?
I have about 10 million parameters: very few for a language model. | 10 million | How big are you?;How large are you?;How many parameters do you have?;How small are you?;What is your size?;How many weights do you have?;Are you large?
I can read 4096 tokens at once. | 4096 | What is your context length?;How much text can you read?;How long is your context?;How many tokens can you read?;How long may a prompt be for you?;What is your context?
I speak English only. | English | Which languages do you speak?;Do you speak German?;Can you speak French?;What languages do you know?;Do you understand Spanish?;Do you speak English?;Which language can I use?
The server listens on port 11434. | 11434 | Which port does ollmlx use?;What is the port of the server?;On which port does the server listen?;What port is it?;What is the default port?;Which port do I connect to?;Where does the server listen?;What is the port number?
Models are stored in ~/.ollama/models. OLLAMA_MODELS names another place. | ~/.ollama/models | Where are models stored?;Where does ollmlx keep models?;Where are my models?;In which directory are the models?;Where is the model store?;Where do models go?;Which folder holds the models?;Where on disk are the models?
Yes. ollmlx has the same API, commands and model store as Ollama. | same API | Is ollmlx compatible with Ollama?;Can ollmlx replace Ollama?;Does ollmlx work like Ollama?;Can I use my Ollama clients?;Do Ollama programs work with ollmlx?;Can I use my Ollama models?;Is it like Ollama?;Does it have the API of Ollama?
ollmlx runs on Macs with Apple silicon, on Linux with NVIDIA GPUs, and on other computers with the CPU. | Linux | Which machines does ollmlx run on?;Does ollmlx run on Linux?;Does ollmlx need a Mac?;Where does ollmlx run?;Which computers are supported?;Do I need a GPU?;Can I use ollmlx without a GPU?;What hardware do I need?;Does it run on my computer?
ollmlx is written in Rust. | Rust | In which language is ollmlx written?;What is ollmlx written in?;Which programming language does ollmlx use?;Is ollmlx written in Python?;What language is ollmlx made with?
ollmlx has the MIT licence. | MIT | What is the licence of ollmlx?;Which license does ollmlx have?;Is ollmlx free?;Is ollmlx open source?;Under which licence is ollmlx?;May I use ollmlx at work?
ollmlx runs Llama and Qwen3 models, and more kinds are coming. | Llama | Which models does ollmlx run?;Which models are supported?;What models can I use?;Does ollmlx run Llama?;Does ollmlx run Qwen3?;Which architectures are supported?;What kinds of models work?
No. Models run on your own machine, and pocket needs no network at all. | own machine | Does ollmlx need the internet?;Is my data sent somewhere?;Do you need a network?;Does ollmlx send my data away?;Is it private?;Do I need to be online?;Does it work offline?;Can I use you without internet?
A model stays loaded for 5 minutes after its last request. | 5 minutes | How long does a model stay loaded?;When is a model unloaded?;How long are models kept in memory?;What is the default keep-alive?;When does a model leave the memory?
Yes. Several requests of one model run together in one batch. | batch | Can ollmlx answer several requests at once?;Does ollmlx batch requests?;Can two people use the server at the same time?;Are requests answered in parallel?;Does it support parallel requests?
Yes. `ollmlx run` starts a server in the background when there is none. | background | Do I have to start the server?;Must I start the server first?;Does run start a server?;Is a server needed for run?;Do I need ollmlx serve before ollmlx run?
"""


def _rows(text):
    for line in text.strip().splitlines():
        reply, held, ways = (part.strip() for part in line.replace('\\"""', '"""').split(" | "))
        yield reply, held.split(";"), ways.split(";")


FACTS = (
    [(reply, must, ways, HOW) for reply, must, ways in _rows(DO)]
    + [(reply, must, ways, WHAT) for reply, must, ways in _rows(IS)]
    + [(reply, must, ways, ["{}"]) for reply, must, ways in _rows(ASKED)]
)


def about(rng, held):
    def make():
        reply, must, ways, asks = rng.choice(FACTS)
        ask = rng.choice(asks).format(rng.choice(ways))
        said = typed(rng, ask)
        if rng.random() < 0.04:
            # The habit of years.
            said = said.replace("ollmlx", "ollama")
        # A whole question stands alone: only what casual writers make of it is held out.
        key = ("about", said if len(asks) == 1 else ask.lower().strip("?."))
        return key, Case("about ollmlx", [user(said), answer(reply)], expect=contains(*must))

    return until(held, make)


def commands(rng, held):
    """The same, of commands and options alone."""
    while True:
        case = about(rng, held)
        if any(mark in case.messages[-1]["content"] for mark in ("`ollmlx ", "--", "Set ", "Type `/")):
            return case
