package dev.mobilebundle.lm;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import dev.mobilebundle.demo.AppTest;
import dev.mobilebundle.demo.Inputs;
import java.io.Closeable;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.junit.Test;

/** The library as Java sees it: lambdas without a result, constructors with fewer arguments, errors that can be thrown. */
public class JavaCallerTest extends AppTest {
    private ModelError failure;

    @Test
    public void asksAndIsAnswered() throws IOException {
        StoredBundle bundle = imported(Inputs.INSTANCE.getTextModelPacked());
        StringBuilder text = new StringBuilder();
        List<ModelState> states = new ArrayList<>();
        try (RunnerLanguageModel model = new RunnerLanguageModel(getApp())) {
            Closeable observation = model.observe(states::add);
            model.load(bundle.getDirectory(), new LoadOptions(256));
            Generation asked = model.generate(new GenerationRequest.Text("The river", 8), event -> {
                if (event instanceof GenerationEvent.Text) {
                    text.append(((GenerationEvent.Text) event).getText());
                } else if (event instanceof GenerationEvent.Failed) {
                    failure = ((GenerationEvent.Failed) event).getError();
                }
            });
            waitFor("the answer", asked::isFinished);
            observation.close();
        }
        assertEquals(null, failure);
        assertTrue(text.length() > 0);
        assertEquals(256, ((ModelState.Ready) states.get(2)).getModel().getContext());
    }

    @Test(expected = ModelError.NotOpen.class)
    public void anErrorIsThrownLikeAnyOther() throws ModelError {
        try (RunnerLanguageModel model = new RunnerLanguageModel(getApp())) {
            model.generate(new GenerationRequest.Text("a"), event -> failure = ((GenerationEvent.Failed) event).getError());
        }
        throw failure;
    }
}
